SELECT next_position FROM ensembles WHERE number = :ensemble
