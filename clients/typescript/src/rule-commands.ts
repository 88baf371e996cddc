/** Commands about alert rules: create, change, delete and snooze a rule, and observe values of its metric. */

import type { Incident } from "./resources.js";

/** A recipient to notify: `email` to a `user` or a `team`, `webhook` or `chat` to a `specific` target. */
export interface Action {
  type: "email" | "webhook" | "chat";
  targetType: "user" | "team" | "specific";
  targetIdentifier: number | string;
}

/** A threshold, in the unit of the rule's metric, and the actions that run when it is crossed. */
export interface Trigger {
  /** Every rule has a critical trigger; the warning is optional. */
  label: "critical" | "warning";
  alertThreshold: number;
  actions?: readonly Action[];
}

interface OptionalRuleFields {
  resolveThreshold?: number | null;
  /** The number of consecutive values that must cross a threshold. The default is 1. */
  thresholdPeriod?: number;
  /** In minutes. If set, each value is compared as a percentage of the value from this long ago. */
  comparisonDelta?: number | null;
  dataset?: string;
  queryType?: number;
  eventTypes?: readonly string[];
  environment?: string | null;
  /** `"user:12"` or `"team:1"`. */
  owner?: string | null;
  description?: string | null;
}

/** Create a rule for a metric of one project, given by its slug. The outcome's body is the rule. */
export interface CreateAlertRule extends OptionalRuleFields {
  type: "alert_rule.create";
  name: string;
  projects: readonly string[];
  /** For example `count()`. */
  aggregate: string;
  query: string;
  /** In minutes. */
  timeWindow: number;
  /** 0 if values above a threshold trigger the rule, 1 if values below it do. */
  thresholdType: 0 | 1;
  triggers: readonly Trigger[];
}

/** Change a rule and close its open incidents. Optional fields that are not set keep their values. */
export interface UpdateAlertRule extends OptionalRuleFields {
  type: "alert_rule.update";
  alertRule: number | string;
  name?: string;
  projects?: readonly string[];
  aggregate: string;
  query: string;
  /** In minutes. */
  timeWindow: number;
  /** 0 if values above a threshold trigger the rule, 1 if values below it do. */
  thresholdType: 0 | 1;
  triggers: readonly Trigger[];
}

/** Delete a rule and close its open incidents. */
export interface DeleteAlertRule {
  type: "alert_rule.delete";
  alertRule: number | string;
}

/** Suppress a rule's notifications for the caller or for everyone, until a time or without end. */
export interface SnoozeAlertRule {
  type: "alert_rule.snooze";
  alertRule: number | string;
  target: "me" | "everyone";
  until?: Date | string;
}

/** End a rule's snooze for the caller or for everyone, or both snoozes if no target is set. */
export interface UnsnoozeAlertRule {
  type: "alert_rule.unsnooze";
  alertRule: number | string;
  target?: "me" | "everyone";
}

/** Submit a value of a rule's metric for a project, given by its slug. Null means that nothing was counted. */
export interface ObserveMetric {
  type: "metric.observe";
  alertRule: number | string;
  project: string;
  value: number | null;
  timestamp: Date | string;
  /** The value from `comparisonDelta` minutes earlier. Only for a rule that has a `comparisonDelta`. */
  comparisonValue?: number;
}

/** What a value did: the labels of triggers, or the reason why it was ignored; and the rule's incident, if any. */
export interface Observation {
  readonly fired: readonly string[];
  readonly resolved: readonly string[];
  readonly ignored?: string;
  readonly incident: Incident | null;
}

export type RuleCommand =
  | CreateAlertRule
  | UpdateAlertRule
  | DeleteAlertRule
  | SnoozeAlertRule
  | UnsnoozeAlertRule
  | ObserveMetric;
