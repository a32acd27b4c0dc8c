-- Endpoints of an organization are found by it: SUBSCRIBED in fan-out.ts.
create index endpoints_organization_idx on outbox.endpoints (organization_id) where deleted_at is null and organization_id is not null;

select outbox.keep_from_guests();
