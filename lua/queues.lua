#!lua flags=no-writes
-- Lists the routes.
--
-- Returns the queues, each followed by its pattern, and among them ":version" with the version of
-- the routes, and ":gone:<queue>" of a queue that was removed lately.
return redis.call("HGETALL", routes)
