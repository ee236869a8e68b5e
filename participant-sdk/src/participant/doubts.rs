//! When to ask about which branch: one schedule for all branches that are prepared and undecided. Pure: the time is an
//! argument, and it is monotonic, so a wall clock that jumps changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::backoff::{Backoff, later};
use crate::branch::Branch;
use crate::resource::{Reservation, ReservationClass};

/// What is to be done about a branch now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Ask for the decision.
    Ask {
        branch: Branch,
        /// The reservation has expired, so that the coordinator may abort.
        expired: bool,
    },
    /// An autonomous reservation has expired: cancel it.
    Cancel(Branch),
}

#[derive(Debug)]
pub(crate) struct Doubts {
    entries: HashMap<Branch, Entry, RandomState>,
    queue: BTreeSet<(Instant, Branch)>,
    /// How long a branch stays prepared before it is asked about unprompted.
    patience: Duration,
    backoff: Backoff,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    expires: Option<(Instant, ReservationClass)>,
    asked: u32,
    /// Somebody is at it, by an answer that came in.
    ending: bool,
}

impl Doubts {
    pub(crate) fn new(patience: Duration, backoff: Backoff) -> Doubts {
        Doubts { entries: HashMap::default(), queue: BTreeSet::new(), patience, backoff }
    }

    /// Takes up a branch that is prepared now. A reservation's whole time counts from now: after a restart it is not
    /// known how much has passed. That is never too early, and late is harmless, because the coordinator keeps a
    /// deadline of its own that began before the Try was sent. One that is known already keeps its timer.
    pub(crate) fn add(&mut self, branch: Branch, reservation: Option<Reservation>, now: Instant) {
        if self.entries.contains_key(&branch) {
            return;
        }
        // A time to live beyond what the clock can count never expires.
        let expires = reservation.and_then(|held| Some((now.checked_add(held.ttl)?, held.class)));
        let mut entry = Entry { due: now, expires, asked: 0, ending: false };
        entry.due = entry.not_past_expiry(now, later(now, self.patience));
        self.queue.insert((entry.due, branch.clone()));
        self.entries.insert(branch, entry);
    }

    /// Drops a branch whose phase two is done. False: it was not there.
    pub(crate) fn remove(&mut self, branch: &Branch) -> bool {
        let Some(entry) = self.entries.remove(branch) else { return false };
        self.queue.remove(&(entry.due, branch.clone()));
        true
    }

    pub(crate) fn contains(&self, branch: &Branch) -> bool {
        self.entries.contains_key(branch)
    }

    /// Claims the ending of a branch. False: it is not in doubt, or somebody is at it.
    pub(crate) fn begin_ending(&mut self, branch: &Branch) -> bool {
        self.entries.get_mut(branch).is_some_and(|entry| !std::mem::replace(&mut entry.ending, true))
    }

    /// Whoever was at it has finished. A branch that is still in doubt may be claimed again.
    pub(crate) fn end_ending(&mut self, branch: &Branch) {
        if let Some(entry) = self.entries.get_mut(branch) {
            entry.ending = false;
        }
    }

    /// This one is to be asked about now.
    pub(crate) fn make_due(&mut self, branch: &Branch, now: Instant) {
        if let Some(entry) = self.entries.get_mut(branch) {
            self.queue.remove(&(entry.due, branch.clone()));
            entry.asked = 0;
            entry.due = now;
            self.queue.insert((now, branch.clone()));
        }
    }

    /// Everything is to be asked about now: the coordinator has been away.
    pub(crate) fn all_due(&mut self, now: Instant) {
        self.queue.clear();
        for (branch, entry) in &mut self.entries {
            entry.asked = 0;
            entry.due = now;
            self.queue.insert((now, branch.clone()));
        }
    }

    /// When there is something to do next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// What is due, at most `max`. Each is at once put off with back-off: if the answer is lost, or is "not decided", it
    /// comes up again.
    pub(crate) fn take_due(&mut self, now: Instant, max: usize) -> Vec<Due> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((due, _)) = self.queue.first()
            && *due <= now
        {
            let (_, branch) = self.queue.pop_first().expect("it was just looked at");
            let entry = self.entries.get_mut(&branch).expect("queue and entries hold the same branches");
            entry.due = entry.not_past_expiry(now, now + self.backoff.delay(entry.asked));
            entry.asked = entry.asked.saturating_add(1);
            self.queue.insert((entry.due, branch.clone()));
            taken.push(match entry.expires {
                Some((at, ReservationClass::Autonomous)) if at <= now => Due::Cancel(branch),
                Some((at, ReservationClass::Cooperative)) if at <= now => Due::Ask { branch, expired: true },
                Some(_) | None => Due::Ask { branch, expired: false },
            });
        }
        taken
    }
}

impl Entry {
    /// The time wished for, or the expiry if that comes first and is still to come.
    fn not_past_expiry(&self, now: Instant, wished: Instant) -> Instant {
        match self.expires {
            Some((at, _)) if at > now => wished.min(at),
            Some(_) | None => wished,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::BranchId;

    const PATIENCE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn doubts() -> Doubts {
        Doubts::new(PATIENCE, Backoff { first: SECOND, max: 8 * SECOND })
    }

    fn branch(id: &str) -> Branch {
        let xid = "00000000-0000-8000-8000-004000000000".parse().unwrap();
        Branch::new(xid, id.parse::<BranchId>().unwrap(), "shop/stock".parse().unwrap())
    }

    fn held(ttl: Duration, class: ReservationClass) -> Reservation {
        Reservation { ttl, class }
    }

    #[tokio::test(start_paused = true)]
    async fn reservation_is_asked_about_as_expired_at_its_expiry_and_not_before() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), Some(held(3 * SECOND, ReservationClass::Cooperative)), start);
        assert_eq!(doubts.take_due(start + 3 * SECOND - Duration::from_nanos(1), 10), []);
        let asked = [Due::Ask { branch: branch("a"), expired: true }];
        assert_eq!(doubts.take_due(start + 3 * SECOND, 10), asked);
        // No answer: it comes again, later and later, for ever.
        let mut now = start + 3 * SECOND;
        for _ in 0..20 {
            let next = doubts.next().unwrap();
            assert!(next > now && next <= now + 8 * SECOND);
            now = next;
            assert_eq!(doubts.take_due(now, 10), asked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn autonomous_reservation_is_cancelled_at_its_expiry() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), Some(held(30 * SECOND, ReservationClass::Autonomous)), start);
        let mut now = start;
        while now < start + 30 * SECOND {
            now = doubts.next().unwrap();
            for due in doubts.take_due(now, 10) {
                let expected = if now < start + 30 * SECOND {
                    Due::Ask { branch: branch("a"), expired: false }
                } else {
                    Due::Cancel(branch("a"))
                };
                assert_eq!(due, expected);
            }
        }
        assert_eq!(now, start + 30 * SECOND, "asking meanwhile must not put off the expiry");
    }

    #[tokio::test(start_paused = true)]
    async fn prepared_branch_without_expiry_is_asked_about_when_patience_ends() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), None, start);
        assert_eq!(doubts.next(), Some(start + PATIENCE));
        assert!(doubts.remove(&branch("a")));
        assert_eq!(doubts.next(), None);
        assert!(!doubts.remove(&branch("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_try_does_not_rearm_the_timer() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), Some(held(5 * SECOND, ReservationClass::Cooperative)), start);
        doubts.add(branch("a"), Some(held(5 * SECOND, ReservationClass::Cooperative)), start + 4 * SECOND);
        assert_eq!(doubts.next(), Some(start + 5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_reconnect_everything_is_asked_about_in_bounded_portions() {
        let (mut doubts, start) = (doubts(), Instant::now());
        for n in 0..25 {
            doubts.add(
                branch(&format!("b{n}")),
                Some(held(60 * SECOND, ReservationClass::Cooperative)),
                start,
            );
        }
        doubts.all_due(start);
        let portions: Vec<usize> = (0..4).map(|_| doubts.take_due(start, 10).len()).collect();
        assert_eq!(portions, [10, 10, 5, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn branch_is_ended_by_one_at_a_time_and_again_where_that_failed() {
        let (mut doubts, start) = (doubts(), Instant::now());
        assert!(!doubts.begin_ending(&branch("a")), "it is not in doubt");
        doubts.add(branch("a"), None, start);
        assert!(doubts.begin_ending(&branch("a")));
        assert!(!doubts.begin_ending(&branch("a")));
        doubts.end_ending(&branch("a"));
        assert!(doubts.begin_ending(&branch("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn one_branch_can_be_made_due_alone() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), None, start);
        doubts.add(branch("b"), None, start);
        doubts.make_due(&branch("b"), start);
        assert_eq!(doubts.take_due(start, 10), [Due::Ask { branch: branch("b"), expired: false }]);
        assert_eq!(doubts.take_due(start + PATIENCE, 10).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn endless_time_to_live_never_expires() {
        let (mut doubts, start) = (doubts(), Instant::now());
        doubts.add(branch("a"), Some(held(Duration::MAX, ReservationClass::Autonomous)), start);
        assert_eq!(doubts.take_due(start + PATIENCE, 10), [Due::Ask { branch: branch("a"), expired: false }]);
    }
}
