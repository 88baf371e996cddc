// Prints what the official parser finds wrong with an AsyncAPI document, one finding a line.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

new Parser().validate(readFileSync(process.argv[2], "utf8")).then((findings) => {
  for (const { severity, path, message } of findings) console.log(`${severity} ${path.join("/")}: ${message}`);
});
