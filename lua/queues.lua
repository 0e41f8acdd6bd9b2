#!lua flags=no-writes
-- Lists the routes.
--
-- Returns the queues, each followed by its pattern, and among them ":version" with the version of
-- the routes, and ":gone:<queue>" where a removal has not yet reached all partitions.
return redis.call("HGETALL", routes)
