SELECT recipe FROM ensembles WHERE number = :ensemble
