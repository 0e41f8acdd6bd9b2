-- give_back.lua: what nack, fail and hold_facet have in common.

-- Gives back the leases that are named from ARGV[first] on, and still are the caller's, each as how(q)
-- says to release(); then calls done(q, facet), if there is that, for what went back.
-- Returns as settle().
local function give_back(first, how, done)
  local release = life().release
  return settle(first, function(q, lease, id, facet)
    local message = redis.call("HGET", q.lease .. lease, "m" .. id)
    local failed = release(q, lease, id, facet, message, how(q))
    if done and not failed then
      done(q, facet)
    end
    return #(message or ""), failed
  end)
end
