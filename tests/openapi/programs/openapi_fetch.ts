import createClient from "openapi-fetch";
import type { paths } from "../openapi_typescript/schema";
import { bearer, eventually, expect, name, organization, url, type Result } from "./scenario";

const as = (token: string) => createClient<paths>({ baseUrl: url, headers: bearer(token) });

async function main(): Promise<Result> {
  const ben = as("dev-ben");
  const opened = await ben.POST("/api/0/organizations/{organization}/incidents/", {
    params: { path: { organization } },
    body: { title: `Opened with ${name}`, projects: ["p1"] },
  });
  const incident = expect(opened.data, opened.error);
  if (!("identifier" in incident)) throw new Error("the command was not applied in time");
  const path = { organization, identifier: incident.identifier };

  const posted = await ben.POST("/api/0/organizations/{organization}/incidents/{identifier}/comments/", {
    params: { path, header: { "Idempotency-Key": `${name}-1` } },
    body: { comment: `Hello from ${name}`, mentions: ["ana"] },
  });
  const comment = expect(posted.data, posted.error);
  if (!("comment" in comment)) throw new Error("the command was not applied in time");

  const bulk = await ben.POST("/api/0/organizations/{organization}/commands/", {
    params: { path: { organization }, header: { Prefer: "wait=30" } },
    body: {
      commands: [
        { type: "comment.post", incident: incident.identifier, comment: "In bulk" },
        { type: "incident.set_status", incident: incident.identifier, status: 20 },
      ],
    },
  });

  const seen = await ben.POST("/api/0/organizations/{organization}/incidents/{identifier}/seen/", { params: { path } });
  expect(seen.data, seen.error);
  const closed = await ben.PUT("/api/0/organizations/{organization}/incidents/{identifier}/", {
    params: { path },
    body: { status: 2 },
  });
  const closedIncident = expect(closed.data, closed.error);

  const created = await ben.POST("/api/0/organizations/{organization}/alert-rules/", {
    params: { path: { organization } },
    body: {
      name: `Rule of ${name}`,
      aggregate: "count()",
      query: "",
      timeWindow: 10,
      thresholdType: 0,
      projects: ["p1"],
      triggers: [
        {
          label: "critical",
          alertThreshold: 100,
          actions: [{ type: "email", targetType: "user", targetIdentifier: "12" }],
        },
      ],
    },
  });
  const rule = expect(created.data, created.error);
  const observed = await ben.POST("/api/0/organizations/{organization}/alert-rules/{rule}/observations/", {
    params: { path: { organization, rule: rule.id } },
    body: { project: "p1", value: 101.5, timestamp: new Date().toISOString() },
  });
  const values = expect(observed.data, observed.error);
  if (!("fired" in values)) throw new Error("the command was not applied in time");

  const ana = as("dev-ana");
  const item = await eventually(async () => {
    const inbox = await ana.GET("/api/0/organizations/{organization}/notifications/", {
      params: { path: { organization }, query: { unread: "1" } },
    });
    return inbox.data?.find((each) => each.text === `Hello from ${name}`);
  });
  const read = await ana.POST("/api/0/organizations/{organization}/notifications/read/", {
    params: { path: { organization } },
    body: { ids: [item.id] },
  });
  const count = expect(read.data, read.error);
  if (!("read" in count)) throw new Error("the command was not applied in time");

  const alerts = await as("dev-alertmanager").POST("/api/0/organizations/{organization}/integrations/alertmanager/", {
    params: { path: { organization }, query: { source: name } },
    body: {
      version: "4",
      groupKey: "{}:{}",
      status: "firing",
      groupLabels: { alertname: "Disk" },
      commonLabels: { alertname: "Disk", project: "p1", severity: "critical" },
      alerts: [{ status: "firing", labels: { alertname: "Disk" }, startsAt: new Date().toISOString() }],
    },
  });

  const refused = await ben.GET("/api/0/organizations/{organization}/incidents/{identifier}/", {
    params: { path: { organization, identifier: "999999" } },
  });
  return {
    incident: incident.identifier,
    comment: expect(comment.comment ?? undefined),
    bulk: expect(bulk.data, bulk.error).commands.map((each) => each.status),
    status: "statusMethod" in closedIncident ? closedIncident.status : 0,
    fired: values.fired,
    read: count.read,
    alerts: expect(alerts.data, alerts.error).commands.map((each) => each.type),
    refused: typeof refused.error === "object" && "detail" in refused.error ? String(refused.error.detail) : "",
  };
}

main().then((result) => console.log(JSON.stringify(result)));
