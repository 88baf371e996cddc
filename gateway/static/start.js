window.onload = function () {
  window.ui = SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    // The stock setting asks a service on the internet whether the file is valid.
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
};
