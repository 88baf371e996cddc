"""Operations over HTTP for operators: the JSON endpoints, logging in, and the live stream."""
