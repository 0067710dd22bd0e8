//! Prompts that are given up between two chunks.

use quest_burn::policy::{LazyPrefillConfig, PrefillConfig};

use super::*;
use crate::speculative::LosslessConfig;

/// Asks with `prompt`, and stops after so many chunks of it.
fn stop_after(session: &mut Session, prompt: &[u32], chunks: usize) {
    let mut left = chunks;
    let config = config(5).with_prefill_chunk(16);
    let mut stream = (session.generate_ids(prompt, config).unwrap()).stop_prefill_when(|| {
        left -= 1;
        left == 0
    });
    let stopped = stream.next().unwrap().unwrap_err();
    assert!(matches!(stopped, GenerateError::Stopped), "{stopped}");
    assert!(stream.next().is_none());
    assert_eq!((stream.new_ids(), stream.finish()), (&[][..], None));
    drop(stream);
    assert_eq!(left, 0);
}

/// Stops prompts after so many chunks.
fn check(model: &LocalModel, lossless: Option<LosslessConfig>, chunks: &[usize]) {
    let session = || {
        let mut session = model.session().unwrap();
        session.set_lossless(lossless).unwrap();
        generate(&mut session, &ids(20), 3);
        session
    };
    let (before, prompt) = (session(), ids(70));
    let expected = generate(&mut session(), &prompt, 5);
    for &chunks in chunks {
        let mut stopped = session();
        stop_after(&mut stopped, &prompt, chunks);
        assert_eq!(stopped.ids(), before.ids());
        assert_eq!(stopped.tokens_held(), before.tokens_held());
        assert_eq!(generate(&mut stopped, &prompt, 5), expected, "{chunks}");
    }
}

#[test]
fn a_session_is_as_before_a_prompt_that_was_stopped() {
    for lossless in [None, Some(LosslessConfig::new())] {
        check(&model(), lossless, &[1, 4, 5]);
    }
}

#[test]
fn a_session_is_as_before_a_lazy_prompt_that_was_stopped() {
    for revival in [None, Some("0.3".parse().unwrap())] {
        let lazy = LazyPrefillConfig::new().with_layers(vec![1]);
        let lazy = PrefillConfig::Lazy(lazy.with_revival(revival));
        // In the first layer, in the second one, and after its last chunk.
        check(&model().with_prefill(lazy), None, &[2, 7, 9]);
    }
}
