import {
  AlertRulesApi,
  CommandsApi,
  Configuration,
  IncidentsApi,
  IntegrationsApi,
  NotificationsApi,
  ResponseError,
} from "../typescript_fetch";
import { eventually, expect, name, organization, url, type Result } from "./scenario";

const as = (token: string) => new Configuration({ basePath: url, accessToken: token });

async function main(): Promise<Result> {
  const ben = as("dev-ben");
  const incidents = new IncidentsApi(ben);
  const rules = new AlertRulesApi(ben);
  const incident = await incidents.openIncident({
    organization,
    openIncident: { title: `Opened with ${name}`, projects: ["p1"] },
  });
  const identifier = incident.identifier;

  const comment = await incidents.postComment({
    organization,
    identifier,
    idempotencyKey: `${name}-1`,
    postComment: { comment: `Hello from ${name}`, mentions: ["ana"] },
  });

  const bulk = await new CommandsApi(ben).submitCommands({
    organization,
    prefer: "wait=30",
    commandRequest: {
      commands: [
        { type: "comment.post", incident: identifier, comment: "In bulk" },
        { type: "incident.set_status", incident: identifier, status: 20 },
      ],
    },
  });

  await incidents.markSeen({ organization, identifier });
  const closed = await incidents.closeIncident({ organization, identifier, setStatus: { status: 2 } });

  const rule = await rules.createRule({
    organization,
    createRule: {
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
  const observed = await rules.observeMetric({
    organization,
    rule: rule.id,
    observeMetric: { project: "p1", value: 101.5, timestamp: new Date() },
  });

  const inbox = new NotificationsApi(as("dev-ana"));
  const item = await eventually(async () =>
    (await inbox.listNotifications({ organization, unread: "1" })).find((each) => each.text === `Hello from ${name}`),
  );
  const read = await inbox.readNotifications({ organization, readNotifications: { ids: [item.id] } });

  const alerts = await new IntegrationsApi(as("dev-alertmanager")).receiveAlerts({
    organization,
    source: name,
    alertGroup: {
      version: "4",
      groupKey: "{}:{}",
      status: "firing",
      groupLabels: { alertname: "Disk" },
      commonLabels: { alertname: "Disk", project: "p1", severity: "critical" },
      alerts: [{ status: "firing", labels: { alertname: "Disk" }, startsAt: new Date() }],
    },
  });

  const refused = await incidents.readIncident({ organization, identifier: "999999" }).then(
    () => "",
    async (error: unknown) => (error instanceof ResponseError ? (await error.response.json()).detail : String(error)),
  );
  return {
    incident: identifier,
    comment: expect(comment.comment ?? undefined),
    bulk: bulk.commands.map((each) => each.status),
    status: closed.status,
    fired: observed.fired,
    read: read.read,
    alerts: alerts.commands.map((each) => each.type),
    refused,
  };
}

main().then((result) => console.log(JSON.stringify(result)));
