SELECT generation, next_position FROM ensembles WHERE number = :ensemble @for_update
