#!lua flags=no-writes
-- Reads the settings of a facet, or of its queue.
--
-- Returns them as configure.lua has them.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for the queue itself
local must = ARGV[4] -- 1 where the queue has to be there, or 0

local q = open(1)
local none = (must == "1" or q.closed) and missing(q, name)
return none or redis.call("HGET", q.settings, facet) or ""
