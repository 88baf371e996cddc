-- Run once, when the database is created: one login per process, in the group role that `tocsin migrate` grants rights to.
\getenv gateway_password GATEWAY_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv relay_password RELAY_PASSWORD
\getenv notifier_password NOTIFIER_PASSWORD

CREATE ROLE tocsin_gateway NOLOGIN;
CREATE ROLE tocsin_worker NOLOGIN;
CREATE ROLE tocsin_relay NOLOGIN;
CREATE ROLE tocsin_notifier NOLOGIN;
CREATE ROLE tocsin_ops NOLOGIN;

CREATE ROLE gateway LOGIN PASSWORD :'gateway_password' IN ROLE tocsin_gateway;
CREATE ROLE worker LOGIN PASSWORD :'worker_password' IN ROLE tocsin_worker;
CREATE ROLE relay LOGIN PASSWORD :'relay_password' IN ROLE tocsin_relay;
CREATE ROLE notifier LOGIN PASSWORD :'notifier_password' IN ROLE tocsin_notifier;
