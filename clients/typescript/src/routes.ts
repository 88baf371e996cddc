/** Commands' own endpoints. A command without one is posted to `commands/`. */

import type { Command } from "./commands.js";

/** The method and the path of a command's own endpoint, relative to the organization, and the body to send there. */
export interface OwnEndpoint {
  readonly method: "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly body: Record<string, unknown>;
}

/** Return a command's own endpoint, or undefined if the command is posted to `commands/`. */
export function ownEndpoint(command: Command): OwnEndpoint | undefined {
  const { type, ...fields } = command as { type: string } & Record<string, unknown>;
  const route = Object.hasOwn(ROUTES, type) ? ROUTES[type] : undefined;
  // A command's own endpoint accepts incident numbers only, not deduplication keys.
  if (route === undefined || !/^[0-9]+$/.test(String(fields["incident"] ?? 0))) return undefined;
  const [method, template] = route;
  const body = { ...fields };
  const path = template.replace(/\{(\w+)\}/g, (_, name: string) => {
    delete body[name];
    return encodeURIComponent(String(fields[name]));
  });
  return { method, path, body };
}

const ROUTES: Readonly<Record<string, readonly [OwnEndpoint["method"], string]>> = {
  "incident.open": ["POST", "incidents/"],
  "incident.mark_seen": ["POST", "incidents/{incident}/seen/"],
  "incident.subscribe": ["POST", "incidents/{incident}/subscriptions/"],
  "incident.unsubscribe": ["DELETE", "incidents/{incident}/subscriptions/"],
  "incident.mute": ["POST", "incidents/{incident}/mute/"],
  "incident.unmute": ["DELETE", "incidents/{incident}/mute/"],
  "comment.post": ["POST", "incidents/{incident}/comments/"],
  "comment.edit": ["PUT", "incidents/{incident}/comments/{id}/"],
  "comment.delete": ["DELETE", "incidents/{incident}/comments/{id}/"],
  "notification.read": ["POST", "notifications/read/"],
  "alert_rule.create": ["POST", "alert-rules/"],
  "alert_rule.update": ["PUT", "alert-rules/{alertRule}/"],
  "alert_rule.delete": ["DELETE", "alert-rules/{alertRule}/"],
  "metric.observe": ["POST", "alert-rules/{alertRule}/observations/"],
};
