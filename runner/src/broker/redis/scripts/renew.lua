-- Begins the leases of messages anew.
--
-- KEYS: queue. ARGV: group, consumer, and an id and the number of its hand-over for each message.
--
-- Returns the places in this list of those that are with this consumer no longer. They are left alone: a bare `XCLAIM` would take them from
-- the one who has them now. A renewal is not counted as a hand-over (`JUSTID`).

return run(function()
    local queue, group, consumer = KEYS[1], ARGV[1], ARGV[2]
    local lost = {}
    for at = 3, #ARGV, 2 do
        local id = ARGV[at]
        -- An entry that was deleted is claimed by nobody, from 7.0 on.
        if not holds(queue, group, consumer, id, ARGV[at + 1])
            or #call('XCLAIM', queue, group, consumer, 0, id, 'JUSTID') == 0 then
            lost[#lost + 1] = (at - 3) / 2
        end
    end
    return lost
end)
