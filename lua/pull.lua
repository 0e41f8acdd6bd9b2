#!lua flags=allow-oom
-- Takes messages for good, in the order of turns.
--
-- Returns and errors: as take().
-- Parts: life, take.
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 250
local bytes = tonumber(ARGV[4]) -- of messages, at most

return take(name, most, bytes)
