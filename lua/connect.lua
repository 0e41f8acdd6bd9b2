#!lua flags=allow-oom
-- Writes down the layout of a new namespace.
--
-- Returns the layout of the namespace, or nothing when it has none.
local known = ARGV[2] -- newest layout that the client knows, and its partitions; "" to write nothing

if known ~= "" then
  redis.call("SET", layout, known, "NX")
end
return redis.call("GET", layout)
