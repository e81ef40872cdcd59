-- Adds a message that comes into its queue after a delay, by the server's clock.
--
-- KEYS: queue, delayed, delayed bodies. ARGV: delay in ms, and the fields. Returns 1, or 0 if there is no such queue.

return run(function()
    local queue, delayed, bodies = KEYS[1], KEYS[2], KEYS[3]
    if call('EXISTS', queue) == 0 then
        return 0
    end
    -- Both can fail, for want of memory; a body that nothing refers to is then left at most.
    local body = call('XADD', bodies, '*', unpack(ARGV, 2))
    call('ZADD', delayed, now() + tonumber(ARGV[1]), body)
    return 1
end)
