-- settle.lua: what ack, nack and their like have in common: the lease decides.

-- Calls act(q, lease, id, facet) for each message that is named from ARGV[first] on and still leased
-- by the caller; it returns how much it has read, and the error of one that stays leased, if it does.
-- They are named in groups, each: queue among KEYS, number of the lease, how many, their ids. Ends with
-- the group in which MOST_BYTES were read.
--
-- Returns how many of them, at the beginning, are still to be named in a next call; then the
-- places, counted from 1, of those that are not the caller's, and below zero of those with an error,
-- which it returns where a single one is named.
local function settle(first, act)
  local queues, groups, left_out, bytes = {}, {}, {}, 0
  local i, named, refused = first, 0, nil
  while i <= #ARGV do
    local place, count = ARGV[i], tonumber(ARGV[i + 2])
    if not queues[place] then
      queues[place] = open(place)
      redis.call("ZCARD", queues[place].timers)
      redis.call("HLEN", queues[place].held)
    end
    groups[#groups + 1] = { queues[place], ARGV[i + 1], i + 3, count, named }
    i, named = i + 3 + count, named + count
  end
  local total = named
  -- The last first: what goes back to the front shall be in the order of the call.
  while #groups > 0 and bytes < MOST_BYTES do
    local q, number, from, count, before = unpack(table.remove(groups))
    local facets = redis.call("HMGET", q.lease .. number, unpack(ARGV, from, from + count - 1))
    for n = count, 1, -1 do
      local lease, id, facet = number, ARGV[from + n - 1], facets[n]
      if not facet then
        lease = number .. "/" .. id
        facet = redis.call("HGET", q.lease .. lease, id)
      end
      local of = q.leases[lease]
      if facet and not of then
        of = { size = redis.call("HLEN", q.lease .. lease) / 2, gone = {} }
        q.leases[lease] = of
      end
      if facet and not of.gone[id] and not q.closed then
        local read, failed = act(q, lease, id, facet)
        bytes, refused = bytes + read, failed
        left_out[#left_out + 1] = failed and -(before + n)
      else
        left_out[#left_out + 1] = before + n
      end
    end
    named = before
  end
  for _, q in pairs(queues) do
    close(q)
  end
  return total == 1 and refused or { named, unpack(left_out) }
end
