INSERT INTO workers (id, ensemble, host, lease, expires)
VALUES (:worker, :ensemble, :host, :lease, @now + :lease)
ON CONFLICT (id) DO UPDATE SET
    ensemble = excluded.ensemble, host = excluded.host, lease = excluded.lease,
    expires = excluded.expires
