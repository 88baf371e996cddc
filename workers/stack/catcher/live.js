// Show what arrives: the server sends an event for whatever this page has not seen.
const seen = document.documentElement.dataset.seen;
new EventSource(`/events?seen=${seen}`).addEventListener("message", () => location.reload());
