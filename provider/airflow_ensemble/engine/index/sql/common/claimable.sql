SELECT 1 FROM workers AS w
WHERE w.id = :worker AND EXISTS (
    SELECT 1 FROM simulations AS s WHERE s.ensemble = w.ensemble AND s.status = 'pending'
)
