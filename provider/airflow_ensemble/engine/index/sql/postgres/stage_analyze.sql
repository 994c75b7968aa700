ANALYZE stage
