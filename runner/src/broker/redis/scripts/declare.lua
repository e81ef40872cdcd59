-- Makes a queue: a stream with our group, which has every message from the beginning. One that is there stays as it is.
--
-- KEYS: queue. ARGV: group. Returns the names of other groups.

return run(function()
    local queue, group = KEYS[1], ARGV[1]
    local made = redis.pcall('XGROUP', 'CREATE', queue, group, '0', 'MKSTREAM')
    if made.err and string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
        fail(made)
    end
    local _, others = group_of(queue, group)
    return others
end)
