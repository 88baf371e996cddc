"""Operations on incidents and alert rules that several handlers share."""
