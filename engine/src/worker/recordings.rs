//! Which decode steps are recorded, and when: all of it but recording and replaying.

use core::fmt;

use quest_burn::decode::DecodeError;

use crate::EngineConfig;

/// Recordings that are kept, of which each keeps memory. There is one more while it is made.
const MAX_KEPT: usize = EngineConfig::MAX_RECORDINGS - 1;

/// Plain steps before they are recorded. Recording takes about as long as they do, so that a recording that is not used
/// again costs no more than it could have saved.
const STEPS_BEFORE: usize = 4;

/// Scopes whose plain steps are counted.
const MAX_COUNTED: usize = 64;

/// Recordings in turn that come to nothing before no other is made.
const MAX_REFUSALS: usize = 3;

/// How much more room for pages a recording has than the next smaller one.
const GROWTH: usize = 4;

/// What a decode step has, and a recording has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub policy: usize,
    pub sequences: usize,
    /// Of the longest sequence, with that of its new token.
    pub pages: usize,
}

/// Pages of a sequence that recordings have room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageBounds {
    /// At least 1.
    pub least: usize,
    pub most: usize,
}

impl PageBounds {
    fn room(self, pages: usize) -> usize {
        let mut room = self.least;
        while room < pages {
            room = room.saturating_mul(GROWTH);
        }
        room.min(self.most).max(pages)
    }
}

impl Scope {
    /// The scope of the recording that such a step takes. There are few of them, so that sequences come, go and grow
    /// without recording anew, and short ones do not take the launches of long ones.
    pub(super) fn rounded_up(self, bounds: PageBounds) -> Self {
        Self {
            policy: self.policy,
            sequences: self.sequences.next_power_of_two(),
            pages: bounds.room(self.pages),
        }
    }
}

/// The recorded steps over a cache, `G` each.
#[derive(Debug)]
pub(super) struct Recordings<G> {
    /// The one that was used last comes last.
    kept: Vec<Recording<G>>,
    /// The one of the newest step comes last.
    counted: Vec<PlainSteps>,
    refusals: usize,
}

#[derive(Debug)]
struct Recording<G> {
    scope: Scope,
    graph: G,
    replays: usize,
}

/// Steps that a recording would have taken.
#[derive(Clone, Copy, Debug)]
struct PlainSteps {
    scope: Scope,
    steps: usize,
}

impl<G> Default for Recordings<G> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            counted: Vec::new(),
            refusals: 0,
        }
    }
}

impl<G> Recordings<G> {
    /// The recording that a step takes, made now if it is time to; none for a plain step.
    /// [`stepped`](Self::stepped) is told what came of the step.
    pub(super) fn recording_for(
        &mut self,
        scope: Scope,
        record: impl FnOnce(Scope) -> Option<G>,
    ) -> Option<&mut G> {
        let place = self.kept.iter().position(|kept| kept.scope == scope);
        let recording = match place {
            Some(place) => self.kept.remove(place),
            None if !self.is_due(scope) => return None,
            None => match record(scope) {
                Some(graph) => Recording {
                    scope,
                    graph,
                    replays: 0,
                },
                None => {
                    let Scope {
                        sequences, pages, ..
                    } = scope;
                    self.refuse(&format_args!(
                        "the device made none for {sequences} sequences of {pages} pages, as where another thread \
                         uses it meanwhile"
                    ));
                    return None;
                }
            },
        };
        if self.kept.len() == MAX_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(recording);
        self.kept.last_mut().map(|kept| &mut kept.graph)
    }

    /// The recording that was given last, after a step with it; none where it refused the step, which is to be taken
    /// plainly then. All are dropped in that case, as they are recordings over the same cache.
    pub(super) fn stepped(&mut self, outcome: Result<(), DecodeError>) -> Option<&G> {
        if let Err(error) = outcome {
            self.kept.clear();
            self.refuse(&error);
            return None;
        }
        let newest = self.kept.last_mut()?;
        newest.replays += 1;
        // It has saved what it cost.
        if newest.replays == STEPS_BEFORE && self.refusals < MAX_REFUSALS {
            self.refusals = 0;
        }
        Some(&newest.graph)
    }

    /// Whether a step is to be recorded now; counts a plain one in otherwise.
    fn is_due(&mut self, scope: Scope) -> bool {
        if self.refusals >= MAX_REFUSALS {
            return false;
        }
        let place = self.counted.iter().position(|plain| plain.scope == scope);
        let plain = place.map(|place| self.counted.remove(place));
        let mut plain = plain.unwrap_or(PlainSteps { scope, steps: 0 });
        // What is refused now is counted anew.
        if plain.steps == STEPS_BEFORE {
            return true;
        }
        plain.steps += 1;
        if self.counted.len() == MAX_COUNTED {
            self.counted.remove(0);
        }
        self.counted.push(plain);
        false
    }

    fn refuse(&mut self, reason: &dyn fmt::Display) {
        self.refusals += 1;
        if self.refusals == MAX_REFUSALS {
            log::warn!("no other decode steps are recorded: {reason}");
        } else {
            log::debug!("a recording of decode steps came to nothing: {reason}");
        }
    }
}

#[cfg(test)]
mod tests;
