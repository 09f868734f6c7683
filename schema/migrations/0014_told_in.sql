-- what one person was told, by transaction: indexes, made while all goes on
-- depends: 0013_notifications
-- transaction: false

-- migrate: apply

-- One that was not made to its end is left behind, and useless.
drop index concurrently if exists notifications_p0_told;
drop index concurrently if exists notifications_p1_told;
drop index concurrently if exists notifications_p2_told;
drop index concurrently if exists notifications_p3_told;

-- Of each partition by itself: PostgreSQL makes none of a partitioned table while others write to it.
create index concurrently notifications_p0_told on notifications_p0 (recipient_id, site, told_in);
create index concurrently notifications_p1_told on notifications_p1 (recipient_id, site, told_in);
create index concurrently notifications_p2_told on notifications_p2 (recipient_id, site, told_in);
create index concurrently notifications_p3_told on notifications_p3 (recipient_id, site, told_in);

-- migrate: rollback
