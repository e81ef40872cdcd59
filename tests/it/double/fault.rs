//! What the double can do wrong, and where.

use std::fmt;
use std::time::Duration;

/// Shorter than every timeout that the runs are given: a late answer must change nothing.
pub const LATE: Duration = Duration::from_millis(600);

/// A frame that the double sends: the connection's role, the frame's name, and its number among the frames of that name, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub role: String,
    pub frame: &'static str,
    pub nth: u32,
}

/// One fault in one place.
#[derive(Clone, Debug)]
pub struct Case {
    pub place: Place,
    pub fault: Fault,
    /// Strikes at every frame of this name from this one on, on every connection of the role.
    pub always: bool,
    /// Sends SIGTERM soon after the fault has struck. Otherwise the run has to end by itself.
    pub stop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This frame is never sent. All others are, and heartbeats go on.
    Swallow,
    /// From here on the connection sends nothing but heartbeats.
    Mute,
    /// From here on the connection sends nothing at all.
    Freeze,
    /// The frame is sent after a pause.
    Late,
    /// The frame is sent two times.
    Twice,
    /// The connection is cut when so many thousandths of the frame are sent.
    Cut(u16),
    /// `channel.close` with this code instead.
    CloseChannel(u16),
    /// `connection.close` with this code instead.
    CloseConnection(u16),
    /// `basic.cancel` for every consumer of the channel, and then the frame.
    CancelConsumers,
    /// `basic.return` with this code instead of storing a message, and then its confirm.
    Return(u16),
    /// `basic.nack` instead of a confirm.
    Nack,
    /// The frame is sent, and the next acknowledgement on the connection is lost together with the connection.
    LoseAck,
    Corrupt(Corruption),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Another last octet than the protocol has.
    End,
    /// A channel that is not open.
    StrangeChannel,
    /// Channel 0 for a frame of a channel, and channel 1 for a frame of the connection.
    OtherChannel,
    /// A type that the protocol does not know.
    UnknownType,
    /// The type of another kind of frame: header for method, body for header, method for body.
    WrongType,
    /// A length of almost 4 GiB.
    Huge,
    /// A length that takes the next frames in.
    Longer,
    /// A length that ends too soon.
    Shorter,
    /// A payload of nonsense.
    Nonsense,
}

const CODES: [u16; 17] = [311, 312, 313, 320, 402, 403, 404, 405, 406, 501, 502, 503, 504, 505, 506, 530, 540];
const LAST_CODE: u16 = 541;

const CORRUPTIONS: [Corruption; 9] = [
    Corruption::End,
    Corruption::StrangeChannel,
    Corruption::OtherChannel,
    Corruption::UnknownType,
    Corruption::WrongType,
    Corruption::Huge,
    Corruption::Longer,
    Corruption::Shorter,
    Corruption::Nonsense,
];

impl Fault {
    /// Whether the double answers with a refusal, or with `basic.cancel` first.
    pub fn refuses(self) -> bool {
        matches!(
            self,
            Fault::CloseChannel(_)
                | Fault::CloseConnection(_)
                | Fault::Return(_)
                | Fault::Nack
                | Fault::CancelConsumers
        )
    }

    /// Whether something that was asked for, or a message, stays out while the connection looks well.
    pub fn is_silence(self) -> bool {
        matches!(self, Fault::Swallow | Fault::Mute | Fault::Freeze)
    }

    /// Whether the client waits for something that does not come.
    pub fn keeps_waiting(self) -> bool {
        use Corruption::{Huge, Longer, OtherChannel, Shorter, StrangeChannel};
        self.is_silence() || matches!(self, Fault::Corrupt(Huge | Longer | Shorter | StrangeChannel | OtherChannel))
    }

    /// Every fault that makes sense at a place.
    fn all_at(place: &Place) -> Vec<Fault> {
        let mut faults = vec![Fault::Swallow, Fault::Mute, Fault::Freeze, Fault::Late, Fault::Twice];
        faults.extend([0, 1, 300, 700, 999, 1000].map(Fault::Cut));
        faults.extend(CORRUPTIONS.map(Fault::Corrupt));
        // A body is nonsense to the protocol anyway.
        faults.retain(|fault| *fault != Fault::Corrupt(Corruption::Nonsense) || !place.frame.ends_with(".body"));
        let codes = CODES.into_iter().chain([LAST_CODE]);
        faults.extend(codes.clone().map(Fault::CloseConnection));
        if !place.frame.starts_with("connection.") {
            faults.extend(codes.map(Fault::CloseChannel));
        }
        match place.frame {
            "basic.ack" => faults.extend([Fault::Nack, Fault::Return(312), Fault::Return(313)]),
            "basic.deliver" if place.role == "takes" => faults.extend([Fault::CancelConsumers, Fault::LoseAck]),
            "basic.cancel-ok" | "queue.declare-ok" | "channel.close-ok" if place.role == "takes" => {
                faults.push(Fault::CancelConsumers);
            }
            _ => {}
        }
        faults
    }
}

impl Case {
    /// The product: every fault at this place. A refusal strikes only once, because a broker that always refuses is like one that
    /// is down. Every other fault is also tried at each such frame. A fault that keeps the program waiting is also tried with
    /// SIGTERM.
    pub fn all_at(place: &Place, can_be_stopped: bool) -> Vec<Case> {
        let mut cases = Vec::new();
        for fault in Fault::all_at(place) {
            for always in [false, true] {
                for stop in [false, true] {
                    if always && fault.refuses() || stop && !(can_be_stopped && fault.keeps_waiting()) {
                        continue;
                    }
                    cases.push(Case { place: place.clone(), fault, always, stop });
                }
            }
        }
        cases
    }

    pub fn strikes(&self, place: &Place) -> bool {
        self.place.role == place.role
            && self.place.frame == place.frame
            && (self.place.nth == place.nth || self.always && place.nth > self.place.nth)
    }

    /// Whether the double stores a message that it does not confirm. Derived from the text of the case: each case always does the
    /// same, and about half of the cases store it.
    pub fn stores_unconfirmed(&self) -> bool {
        self.to_string().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 2 == 0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.role, self.frame, self.nth)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { place, fault, always, stop } = self;
        write!(f, "{place} {fault:?} {}", if *always { "always" } else { "once" })?;
        if *stop { write!(f, " stopped") } else { Ok(()) }
    }
}
