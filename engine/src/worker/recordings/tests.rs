use super::*;

const BOUNDS: PageBounds = PageBounds {
    least: 16,
    most: 100,
};

/// A recording is its scope.
type Scopes = Recordings<Scope>;

fn scope(policy: usize, sequences: usize, pages: usize) -> Scope {
    Scope {
        policy,
        sequences,
        pages,
    }
}

/// What a step takes, and whether that was made for it.
fn step(recordings: &mut Scopes, scope: Scope) -> (Option<Scope>, bool) {
    let mut is_made = false;
    let record = |scope| {
        is_made = true;
        Some(scope)
    };
    let taken = recordings.recording_for(scope.rounded_up(BOUNDS), record);
    let taken = taken.copied();
    if taken.is_some() {
        assert_eq!(recordings.stepped(Ok(())).copied(), taken);
    }
    (taken, is_made)
}

/// Takes the plain steps that come before a recording.
fn warm_up(recordings: &mut Scopes, scope: Scope) {
    for _ in 0..STEPS_BEFORE {
        assert_eq!(step(recordings, scope), (None, false));
    }
}

fn record(recordings: &mut Scopes, scope: Scope) {
    warm_up(recordings, scope);
    let taken = Some(scope.rounded_up(BOUNDS));
    assert_eq!(step(recordings, scope), (taken, true));
}

/// A step that the device makes no recording for; says whether it was asked.
fn refused(recordings: &mut Scopes, scope: Scope) -> bool {
    let mut is_asked = false;
    let refuse = |_| {
        is_asked = true;
        None
    };
    let taken = recordings.recording_for(scope.rounded_up(BOUNDS), refuse);
    assert!(taken.is_none());
    is_asked
}

#[test]
fn sequences_come_and_go_within_a_bucket_without_recording_anew() {
    let mut recordings = Scopes::default();
    record(&mut recordings, scope(0, 3, 5));
    let taken = (Some(scope(0, 4, 16)), false);
    for (sequences, pages) in [(4, 7), (3, 16), (4, 1)] {
        assert_eq!(step(&mut recordings, scope(0, sequences, pages)), taken);
    }
    record(&mut recordings, scope(0, 5, 5));
    record(&mut recordings, scope(1, 4, 5));
    assert_eq!(step(&mut recordings, scope(0, 4, 5)), taken);
}

#[test]
fn room_for_pages_grows_up_to_what_a_sequence_can_have() {
    let rooms = [(1, 16), (16, 16), (17, 64), (64, 64), (65, 100), (100, 100)];
    for (pages, room) in rooms {
        let found = scope(0, 1, pages).rounded_up(BOUNDS);
        assert_eq!(found, scope(0, 1, room), "{pages} pages");
    }
}

#[test]
fn short_sequences_do_not_take_the_recording_of_long_ones() {
    let mut recordings = Scopes::default();
    record(&mut recordings, scope(0, 1, 90));
    record(&mut recordings, scope(0, 1, 3));
    let taken = [90, 3].map(|pages| step(&mut recordings, scope(0, 1, pages)));
    let expected = [100, 16].map(|room| (Some(scope(0, 1, room)), false));
    assert_eq!(taken, expected);
}

#[test]
fn those_not_used_for_longest_make_room() {
    let mut recordings = Scopes::default();
    for policy in 0..MAX_KEPT {
        record(&mut recordings, scope(policy, 1, 1));
    }
    assert!(!step(&mut recordings, scope(0, 1, 1)).1);
    record(&mut recordings, scope(99, 1, 1));
    assert_eq!(recordings.kept.len(), MAX_KEPT);
    let taken = Some(scope(0, 1, 16));
    assert_eq!(step(&mut recordings, scope(0, 1, 1)), (taken, false));
    let gone = step(&mut recordings, scope(1, 1, 1));
    assert_eq!(gone, (None, false), "it is gone");
}

#[test]
fn plain_steps_take_the_place_of_no_recording_and_are_not_counted_without_bounds() {
    let mut recordings = Scopes::default();
    for policy in 0..MAX_KEPT {
        record(&mut recordings, scope(policy, 1, 1));
    }
    for policy in 100..1000 {
        assert_eq!(step(&mut recordings, scope(policy, 1, 1)), (None, false));
    }
    assert_eq!(recordings.counted.len(), MAX_COUNTED);
    for policy in 0..MAX_KEPT {
        let taken = Some(scope(policy, 1, 16));
        assert_eq!(step(&mut recordings, scope(policy, 1, 1)), (taken, false));
    }
}

#[test]
fn a_device_that_refuses_is_not_asked_for_ever_and_what_it_made_is_used() {
    let mut recordings = Scopes::default();
    record(&mut recordings, scope(0, 1, 1));
    let mut asked = 0;
    for _ in 0..100 {
        asked += usize::from(refused(&mut recordings, scope(1, 1, 1)));
        let taken = Some(scope(0, 1, 16));
        assert_eq!(step(&mut recordings, scope(0, 1, 1)), (taken, false));
    }
    assert_eq!(asked, MAX_REFUSALS);
    let mut recordings = Scopes::default();
    let asked = (0..100).filter(|_| refused(&mut recordings, scope(0, 1, 1)));
    assert_eq!(asked.count(), MAX_REFUSALS);
}

#[test]
fn refusals_are_forgotten_when_a_recording_has_paid_off() {
    let mut recordings = Scopes::default();
    for policy in 0..10 {
        // Two refusals of each, but never three in turn.
        for _ in 0..2 {
            warm_up(&mut recordings, scope(policy, 1, 1));
            assert!(refused(&mut recordings, scope(policy, 1, 1)));
        }
        record(&mut recordings, scope(policy, 1, 1));
        for _ in 1..STEPS_BEFORE {
            step(&mut recordings, scope(policy, 1, 1));
        }
        assert_eq!(recordings.refusals, 0);
    }
}

#[test]
fn a_recording_that_refuses_a_step_is_dropped_with_all_others_and_made_again() {
    let mut recordings = Scopes::default();
    record(&mut recordings, scope(0, 1, 1));
    record(&mut recordings, scope(1, 1, 1));
    let taken = recordings.recording_for(scope(1, 1, 16), |_| panic!("it is there"));
    assert!(taken.is_some());
    let outcome = Err(DecodeError::OtherCache);
    assert_eq!(recordings.stepped(outcome), None);
    assert!(recordings.kept.is_empty());
    for policy in [0, 1] {
        record(&mut recordings, scope(policy, 1, 1));
    }
}

#[test]
fn recordings_that_always_refuse_their_step_are_not_made_for_ever() {
    let mut recordings = Scopes::default();
    let mut made = 0;
    for _ in 0..100 {
        let record = |scope| {
            made += 1;
            Some(scope)
        };
        if recordings.recording_for(scope(0, 1, 16), record).is_some() {
            assert_eq!(recordings.stepped(Err(DecodeError::OtherCache)), None);
        }
    }
    assert_eq!(made, MAX_REFUSALS);
}
