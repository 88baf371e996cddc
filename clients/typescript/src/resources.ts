/** Resources that the client reads. Ids are strings, times are ISO 8601 in UTC. */

/** A user, as the author of an activity. `email` may be empty. */
export interface Person {
  readonly id: string;
  readonly name: string;
  readonly username: string;
  readonly email: string;
}

/** Open, closed, warning and critical. */
export type IncidentStatus = 1 | 2 | 10 | 20;

/** An incident. `identifier` is the number by which people and commands name it; `projects` holds slugs. */
export interface Incident {
  readonly id: string;
  readonly identifier: string;
  readonly title: string;
  readonly status: IncidentStatus;
  readonly projects: readonly string[];
  /** The rule that opened the incident, as it was then; null if there is none. */
  readonly alertRule: Record<string, any> | null;
  readonly dateStarted: string;
  readonly dateDetected: string;
  readonly dateCreated: string;
  readonly dateClosed: string | null;
  readonly version: number;
  /** Whether the caller has seen the incident; null in lists. */
  readonly hasSeen: boolean | null;
  /** Whether the caller is subscribed to the incident; absent in lists. */
  readonly isSubscribed?: boolean;
}

/** An activity on an incident. `type` is 1 (created), 2 (status change), 3 (comment) or 4 (detected). */
export interface Activity {
  readonly id: string;
  /** The incident's number. */
  readonly incidentIdentifier: string;
  readonly type: 1 | 2 | 3 | 4;
  /** The author; null if the activity was tocsin's own or a service's. */
  readonly user: Person | null;
  readonly comment: string | null;
  /** The new status, for a status change. */
  readonly value: string | null;
  /** The old status, for a status change. */
  readonly previousValue: string | null;
  readonly dateCreated: string;
  readonly version: number;
}

/** An item in a person's inbox. `link` is the URL of the incident's page. */
export interface Notification {
  readonly id: string;
  readonly reason: "mention" | "team_mention" | "subscribed";
  readonly event: { readonly id: string; readonly type: string };
  readonly incident: { readonly identifier: string; readonly title: string };
  readonly activity: { readonly id: string };
  /** The person who caused it; null if tocsin itself did, and after a retraction. */
  readonly author: { readonly id: string; readonly name: string } | null;
  readonly link: string;
  readonly text: string;
  readonly dateCreated: string;
  readonly dateRead: string | null;
  readonly retracted: boolean;
}
