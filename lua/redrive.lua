#!lua
-- Lets dead letters join the end of their facets again, as if they were delivered now: one, those of a
-- facet, or all, a part of them at each call.
--
-- Returns how many; how many it has taken away, 0 at the end; and by when they had died, ms.
-- Errors: NOQUEUE when the queue holds nothing and is not registered; when none can be moved, that of the
-- key that is in the way.
-- Parts: life, letters.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for all
local id = ARGV[4] -- "" for all
local most = tonumber(ARGV[5]) -- letters
local by = tonumber(ARGV[6]) -- ms: those that died later stay; 0 for now

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local failed
local alive = life()
local moved = letters_of(q, facet, id, most, by, function(of, letter)
  local from, at = letter:match("^%d+ %d+ (%d+) ()")
  local message = from and letter:sub(at + from) or ""
  local m = alive.split(message)
  local text = message
  if m then -- Its attempts, crashes, and the time at which it expired are those of its former life.
    m.attempts, m.crashes, m.since = 0, 0, string.format("%.0f", now)
    m.more = m.more:gsub(",[xd]%d+", "")
    text = alive.join(m, message)
  end
  local refused = alive.put(q, "appended", of, text)
  failed = refused or failed
  return not refused
end)
return moved[2] == 0 and failed or moved
