-- Deletes a message that no consumer has.
--
-- KEYS: queue. ARGV: group, lease in ms, id. Returns 1, or 0 if somebody has it or it is gone.

return run(function()
    local queue, group, id = KEYS[1], ARGV[1], ARGV[3]
    if is_held(queue, group, id, ARGV[2]) then
        return 0
    end
    call('XACK', queue, group, id)
    return call('XDEL', queue, id)
end)
