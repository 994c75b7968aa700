SELECT id FROM workers WHERE host = :host ORDER BY id @for_update
