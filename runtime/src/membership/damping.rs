//! The keeper's side of nodes that come and go: when moves for balance are worth making.

use std::collections::BTreeMap;

use epicserver_storage::{NodeId, View};

/// How much coming and going is borne before moves for balance wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DampingLimits {
    /// A member that was there for less than this, in nanoseconds, and did not leave in order, has had a short life. 0: nobody has, and
    /// nothing ever waits.
    pub short_life_ns: u64,
    /// Short lives that are borne in a row. Each is forgotten in [`Self::short_life_ns`].
    pub borne: u32,
    /// How long moves wait at most after the last short life, in nanoseconds.
    pub wait_ns_max: u64,
}

impl DampingLimits {
    /// Lives under this are short, two of them are borne, and moves wait for three times as long at most.
    pub fn of_lives_under(short_life_ns: u64) -> Self {
        Self { short_life_ns, borne: 2, wait_ns_max: short_life_ns.saturating_mul(3) }
    }
}

impl Default for DampingLimits {
    /// Lives under 20 s are short: longer than a process needs that fails soon after its start, or a lease that runs out.
    fn default() -> Self {
        Self::of_lives_under(20_000_000_000)
    }
}

/// Says when nodes come and go so often that the keeper had better not move partitions for balance.
///
/// A node that crashes soon after each start, or that the network cuts off again and again, would be given its share each time, and its
/// objects would be moved and then be taken over without what was not saved. Lives are counted, and not nodes, as a process that
/// starts again is a new node. A node that was there for longer costs nothing when it goes, and so do many that go at once; nor does one that
/// leaves in order, as nothing is lost with it.
///
/// Short lives fill a bucket that leaks at a constant rate (the leaky bucket as a meter, ITU-T I.371): each puts in one measure, which takes
/// [`DampingLimits::short_life_ns`] to flow out, and moves wait while there is more in it than is borne. So a node whose lives and
/// absences together are shorter than that is found out, however it is timed.
///
/// Inputs: [`Damping::handle_view`] with every new view, [`Damping::handle_leave`], [`Damping::handle_timeout`]. Outputs: [`Damping::is_restless`],
/// [`Damping::poll_timeout`]. Made anew with each reign: whoever is in the first view is taken for one that has been there for long.
#[derive(Debug)]
pub struct Damping {
    limits: DampingLimits,
    /// Since when each member is there; `None`: since before the reign, or its life is not counted.
    since: Option<BTreeMap<NodeId, Option<u64>>>,
    /// When the bucket is empty.
    empty_at: u64,
    restless_until: Option<u64>,
}

impl Damping {
    /// That of a new reign, in which nothing has happened.
    pub fn new(limits: DampingLimits) -> Self {
        Self { limits, since: None, empty_at: 0, restless_until: None }
    }

    /// Takes the current view: who is not in it any more has gone now.
    pub fn handle_view(&mut self, now: u64, view: &View) {
        let Some(since) = &mut self.since else {
            self.since = Some(view.members.iter().map(|member| (member.node, None)).collect());
            return;
        };
        let mut short_lives = 0;
        since.retain(|&node, begin| {
            let is_there = view.member(node).is_some();
            let is_short = begin.is_some_and(|begin| now.saturating_sub(begin) < self.limits.short_life_ns);
            short_lives += u64::from(!is_there && is_short);
            is_there
        });
        for member in &view.members {
            since.entry(member.node).or_insert(Some(now));
        }
        if short_lives > 0 {
            self.fill(now, short_lives);
        }
    }

    /// A member leaves in order: its life is not counted.
    pub fn handle_leave(&mut self, node: NodeId) {
        if let Some(begin) = self.since.as_mut().and_then(|since| since.get_mut(&node)) {
            *begin = None;
        }
    }

    /// Looks whether it is calm again.
    pub fn handle_timeout(&mut self, now: u64) {
        self.restless_until = self.restless_until.filter(|until| *until > now);
    }

    /// When [`Self::handle_timeout`] is due: it will be calm then, if nobody goes.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.restless_until
    }

    /// Whether moves for balance are to wait.
    pub fn is_restless(&self) -> bool {
        self.restless_until.is_some()
    }

    fn fill(&mut self, now: u64, short_lives: u64) {
        let DampingLimits { short_life_ns, borne, wait_ns_max } = self.limits;
        let borne_ns = short_life_ns.saturating_mul(u64::from(borne));
        let full_at = now.saturating_add(borne_ns).saturating_add(wait_ns_max);
        let filled = self.empty_at.max(now).saturating_add(short_life_ns.saturating_mul(short_lives));
        self.empty_at = filled.min(full_at);
        self.restless_until = Some(self.empty_at.saturating_sub(borne_ns)).filter(|until| *until > now);
    }
}

#[cfg(test)]
mod tests;
