#!lua flags=allow-oom
-- Writes down the layout of a new namespace.
--
-- Returns the layout of the namespace.
local known = ARGV[2] -- newest layout that the client knows

redis.call("SET", layout, known, "NX")
return redis.call("GET", layout)
