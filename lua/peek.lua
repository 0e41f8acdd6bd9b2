#!lua flags=no-writes
-- Shows the messages that would be served next, in their order, and changes nothing. Of a queue
-- that is paused, those that it would serve if it was not.
--
-- Returns what ended it, as choose() does; then facet and message in turn.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: life, take.
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 250
local bytes = tonumber(ARGV[4]) -- of messages, at most

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
due(q, 400 - most)
local chosen, _, ended = choose(q, most, bytes, true)
return { ended, unpack(chosen) }
