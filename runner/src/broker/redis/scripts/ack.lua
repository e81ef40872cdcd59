-- Forgets a message that is with this consumer: all of it, or nothing if it is not.
--
-- KEYS: queue. ARGV: group, consumer, id, number of its hand-over. Returns 1, or 0 if it was lost.
--
-- A bare `XACK` would acknowledge it for whoever has it. `XDEL` because a stream keeps what was acknowledged.

return run(function()
    local queue, group, consumer, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
    if not holds(queue, group, consumer, id, ARGV[4]) then
        return 0
    end
    forget(queue, group, id)
    return 1
end)
