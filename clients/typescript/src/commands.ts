/**
 * Commands that a caller can submit. A command is a plain object with the fields of the API and its `type`, so it can
 * be stored, compared, and posted alone or in bulk.
 */

import type { Activity, Incident, IncidentStatus } from "./resources.js";
import type { Observation, RuleCommand } from "./rule-commands.js";

/** An incident's number, or `"dedup:KEY"` for the open incident with that key. */
export type IncidentReference = number | string;

/** `"user:12"`, `"team:1"`, a user's id or a username. */
export type Mention = number | string;

/**
 * Open an incident on `projects`, given by their slugs.
 *
 * If an incident with the same `dedupKey` is already open, it is returned instead. Only services may set one.
 */
export interface OpenIncident {
  type: "incident.open";
  title: string;
  projects: readonly string[];
  status?: 1 | 10 | 20;
  dedupKey?: string;
  alertRule?: number | string;
  dateStarted?: Date | string;
}

/** Change an incident's status: 1 (open), 2 (closed), 10 (warning) or 20 (critical). */
export interface SetStatus {
  type: "incident.set_status";
  incident: IncidentReference;
  status: IncidentStatus;
  comment?: string;
}

/** Mark an incident as seen by the caller. */
export interface MarkSeen {
  type: "incident.mark_seen";
  incident: IncidentReference;
}

/** Subscribe the caller to an incident. */
export interface Subscribe {
  type: "incident.subscribe";
  incident: IncidentReference;
}

/** Unsubscribe the caller from an incident. */
export interface Unsubscribe {
  type: "incident.unsubscribe";
  incident: IncidentReference;
}

/** Mute an incident for the caller, until a time or, if `until` is not set, without end. */
export interface MuteIncident {
  type: "incident.mute";
  incident: IncidentReference;
  until?: Date | string;
}

/** Unmute an incident for the caller. */
export interface UnmuteIncident {
  type: "incident.unmute";
  incident: IncidentReference;
}

/** Comment on an incident and notify everyone mentioned. */
export interface PostComment {
  type: "comment.post";
  incident: IncidentReference;
  comment: string;
  mentions?: readonly Mention[];
}

/**
 * Edit one of the caller's own comments and notify people who are mentioned for the first time.
 *
 * If `mentions` is not set, the comment keeps its mentions.
 */
export interface EditComment {
  type: "comment.edit";
  incident: IncidentReference;
  id: number | string;
  comment: string;
  mentions?: readonly Mention[];
}

/** Delete one of the caller's own comments. */
export interface DeleteComment {
  type: "comment.delete";
  incident: IncidentReference;
  id: number | string;
}

/** Mark inbox items as read: those in `ids`, up to and including the id `upTo`, about `incident`, or `all`. */
export type ReadNotifications = { type: "notification.read" } & (
  | { ids: readonly (number | string)[] }
  | { upTo: number | string }
  | { incident: number | string }
  | { all: true }
);

declare const raw: unique symbol;

/** A command that has no type of its own. Make it with {@link rawCommand}. */
export interface RawCommand {
  readonly [raw]: true;
  readonly type: string;
}

export type Command =
  | OpenIncident
  | SetStatus
  | MarkSeen
  | Subscribe
  | Unsubscribe
  | MuteIncident
  | UnmuteIncident
  | PostComment
  | EditComment
  | DeleteComment
  | ReadNotifications
  | RuleCommand
  | RawCommand;

interface OutcomeBodies {
  "incident.open": Incident;
  "incident.set_status": Incident;
  "incident.mute": { readonly until: string | null };
  "incident.unmute": null;
  "comment.post": Activity;
  "comment.edit": Activity;
  "comment.delete": null;
  "notification.read": { readonly read: number };
  "alert_rule.create": Record<string, any>;
  "alert_rule.update": Record<string, any>;
  "alert_rule.delete": null;
  "metric.observe": Observation;
}

/** The body of a command's outcome. */
export type OutcomeBody<C extends Command> = C["type"] extends keyof OutcomeBodies ? OutcomeBodies[C["type"]] : any;

/** Return a command that has no type of its own: `rawCommand("trigger.delete", { alertRule: "3", id: "5" })`. */
export function rawCommand(type: string, fields: Record<string, unknown>): RawCommand {
  return { ...fields, type } as unknown as RawCommand;
}
