//! Decode steps that are recorded: which recording a step takes, and when one is made.
//!
//! There is one for each policy and bucket of batch sizes (1, 2, 4, 8, ..), over sequences of up to so many
//! pages. Sequences that come and go within a bucket need none anew.

use std::sync::Arc;

use quest_burn::decode::{BatchGraph, DecodeGraph};
use quest_burn_models::generation::batch_graph;

use super::{Worker, WorkerError};

/// Recordings at once, of which each keeps memory: two policies with buckets of up to 32 sequences.
const MAX_RECORDINGS: usize = 12;

/// Plain steps of a policy and a bucket before they are recorded. Recording takes about as long as they do, so that
/// one that is not used again costs no more than it could have saved.
const STEPS_BEFORE: usize = 4;

/// Tokens of a sequence that a recording is good for at least.
const MIN_TOKENS: usize = 256;

/// Recordings that the device may refuse, as another thread uses it meanwhile, before no other is tried.
const MAX_REFUSALS: usize = 3;

/// The recorded steps of an engine, `G` each.
#[derive(Debug)]
pub(super) struct Recordings<G> {
    /// The one that was used last comes last.
    known: Vec<Recording<G>>,
    refusals: usize,
}

#[derive(Debug)]
struct Recording<G> {
    policy: usize,
    /// The bucket: sequences that a step has at most.
    sequences: usize,
    /// Plain steps that it would have taken.
    missed: usize,
    /// Pages that a sequence has at most, and the step itself.
    graph: Option<(usize, G)>,
}

/// What a decode step needs of a recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub policy: usize,
    pub sequences: usize,
    /// Pages of the longest sequence, with that of its new token.
    pub pages: usize,
}

/// Pages of a sequence that recordings are made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageBounds {
    pub least: usize,
    pub most: usize,
}

impl PageBounds {
    /// Room for `pages` that doubles as they grow.
    fn room(self, pages: usize) -> usize {
        let room = pages.max(self.least).next_power_of_two();
        room.min(self.most).max(pages)
    }
}

impl<G> Default for Recordings<G> {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            refusals: 0,
        }
    }
}

impl<G> Recordings<G> {
    /// The recording that a step takes, recorded for so many sequences and pages if it is time to; none for a plain
    /// step.
    pub(super) fn next(
        &mut self,
        needs: Needs,
        bounds: PageBounds,
        record: impl FnOnce(usize, usize) -> Option<G>,
    ) -> Option<&mut G> {
        if self.refusals == MAX_REFUSALS {
            return None;
        }
        let Needs { policy, pages, .. } = needs;
        let sequences = needs.sequences.next_power_of_two();
        let is_it = |r: &Recording<G>| (r.policy, r.sequences) == (policy, sequences);
        let mut recording = match self.known.iter().position(is_it) {
            Some(place) => self.known.remove(place),
            None => Recording {
                policy,
                sequences,
                missed: 0,
                graph: None,
            },
        };
        if self.known.len() == MAX_RECORDINGS {
            self.known.remove(0);
        }
        let is_good = |graph: &(usize, G)| graph.0 >= pages;
        if recording.missed < STEPS_BEFORE {
            recording.missed += 1;
        } else if !recording.graph.as_ref().is_some_and(is_good) {
            // Its memory is given back before the next one takes some.
            recording.graph = None;
            let room = bounds.room(pages);
            recording.graph = record(sequences, room).map(|graph| (room, graph));
            if recording.graph.is_none() {
                recording.missed = 0;
                self.refuse();
            }
        }
        self.known.push(recording);
        let (_, graph) = self.known.last_mut()?.graph.as_mut()?;
        Some(graph)
    }

    fn refuse(&mut self) {
        self.refusals += 1;
        if self.refusals == MAX_REFUSALS {
            log::warn!("the device records no decode steps: they are launched kernel by kernel");
        }
    }
}

impl Worker {
    /// Feeds the newest token of each sequence by a recording; none where the step is to be taken plainly.
    pub(super) fn replay(
        &mut self,
        policy: usize,
        indices: &[usize],
    ) -> Result<Option<&BatchGraph<'static>>, WorkerError> {
        let shared = self.policies.get(policy);
        if !self.records || !shared.is_capturable() {
            return Ok(None);
        }
        let page_size = self.cache.page_size();
        let sequences = indices.iter().map(|&index| &self.running[index]);
        let pages = sequences
            .clone()
            .map(|s| (s.computed + 1).div_ceil(page_size));
        let needs = Needs {
            policy,
            sequences: indices.len(),
            pages: pages.max().unwrap_or(0),
        };
        let (model, cache) = (&self.model, &mut self.cache);
        let bounds = PageBounds {
            least: MIN_TOKENS.div_ceil(page_size),
            most: (model.context().div_ceil(page_size)).min(cache.config().n_pages),
        };
        let record = |sequences: usize, max_pages: usize| {
            let policy = Arc::clone(shared);
            batch_graph(model.shared_model(), policy, cache, sequences, max_pages)
        };
        let Some(graph) = self.recordings.next(needs, bounds, record) else {
            return Ok(None);
        };
        let assigned = sequences.clone().map(|sequence| sequence.assigned(1));
        let tokens = sequences.map(|sequence| sequence.ids[sequence.computed]);
        let assigned = assigned.collect::<Vec<_>>();
        graph.step(&mut self.cache, &assigned, &tokens.collect::<Vec<_>>())?;
        self.stats.recorded_steps += 1;
        Ok(Some(graph))
    }

    /// Whether decode steps of this model over this cache are recorded, if their policies allow it.
    pub(super) fn can_record(&self) -> bool {
        self.config.recording
            && self.model.model().is_capturable()
            && DecodeGraph::records(&self.cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PageBounds = PageBounds {
        least: 16,
        most: 100,
    };

    fn needs(policy: usize, sequences: usize, pages: usize) -> Needs {
        Needs {
            policy,
            sequences,
            pages,
        }
    }

    /// What a step takes, `(policy, sequences, pages)` of a recording, and whether that was made for it.
    fn step(
        recordings: &mut Recordings<(usize, usize, usize)>,
        needs: Needs,
    ) -> (Option<(usize, usize, usize)>, bool) {
        let mut is_made = false;
        let record = |sequences, pages| {
            is_made = true;
            Some((needs.policy, sequences, pages))
        };
        let taken = recordings.next(needs, BOUNDS, record).copied();
        (taken, is_made)
    }

    /// Takes the plain steps that come before a recording.
    fn warm_up(recordings: &mut Recordings<(usize, usize, usize)>, needs: Needs) {
        for _ in 0..STEPS_BEFORE {
            assert_eq!(step(recordings, needs), (None, false));
        }
    }

    #[test]
    fn sequences_come_and_go_within_a_bucket_without_recording_anew() {
        let mut recordings = Recordings::default();
        warm_up(&mut recordings, needs(0, 3, 5));
        let taken = Some((0, 4, 16));
        assert_eq!(step(&mut recordings, needs(0, 3, 5)), (taken, true));
        for (sequences, pages) in [(4, 7), (3, 16), (4, 1)] {
            let found = step(&mut recordings, needs(0, sequences, pages));
            assert_eq!(found, (taken, false));
        }
        warm_up(&mut recordings, needs(0, 5, 5));
        assert_eq!(
            step(&mut recordings, needs(0, 8, 5)),
            (Some((0, 8, 16)), true)
        );
        warm_up(&mut recordings, needs(1, 4, 5));
        assert_eq!(
            step(&mut recordings, needs(1, 4, 5)),
            (Some((1, 4, 16)), true)
        );
        assert_eq!(step(&mut recordings, needs(0, 4, 5)), (taken, false));
    }

    #[test]
    fn room_for_pages_doubles_up_to_what_a_sequence_can_have() {
        let mut recordings = Recordings::default();
        warm_up(&mut recordings, needs(0, 1, 5));
        for (pages, room, is_made) in [
            (16, 16, true),
            (17, 32, true),
            (32, 32, false),
            (65, 100, true),
            (100, 100, false),
            (3, 100, false),
        ] {
            let found = step(&mut recordings, needs(0, 1, pages));
            assert_eq!(found, (Some((0, 1, room)), is_made), "{pages} pages");
        }
    }

    #[test]
    fn those_not_used_for_longest_make_room() {
        let mut recordings = Recordings::default();
        for policy in 0..MAX_RECORDINGS {
            warm_up(&mut recordings, needs(policy, 1, 1));
            assert!(step(&mut recordings, needs(policy, 1, 1)).1);
        }
        assert!(!step(&mut recordings, needs(0, 1, 1)).1);
        assert_eq!(step(&mut recordings, needs(99, 1, 1)), (None, false));
        assert_eq!(recordings.known.len(), MAX_RECORDINGS);
        assert_eq!(step(&mut recordings, needs(0, 1, 1)).0, Some((0, 1, 16)));
        assert_eq!(
            step(&mut recordings, needs(1, 1, 1)),
            (None, false),
            "it is gone"
        );
    }

    #[test]
    fn a_device_that_refuses_is_not_asked_for_ever() {
        let mut recordings = Recordings::<()>::default();
        let mut asked = 0;
        for _ in 0..100 {
            let refused = recordings.next(needs(0, 1, 1), BOUNDS, |_, _| {
                asked += 1;
                None
            });
            assert!(refused.is_none());
        }
        assert_eq!(asked, MAX_REFUSALS);
    }
}
