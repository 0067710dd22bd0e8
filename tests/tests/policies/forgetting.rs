//! What a cache forgets, policies forget.

use burn::tensor::Tensor;
use quest_burn::{cache::LayerCache, policy::PagePolicy};
use quest_burn_tests::{
    arrays::values,
    session::{Session, observed},
};

use super::{PAGE_SIZE, config, for_each_policy, shape};

#[test]
fn what_the_cache_forgets_is_forgotten() {
    let only_first = [true, false, false, false];
    for_each_policy(|kind, device, context| {
        for way in ["truncate", "release", "reset"] {
            let context = format!("{context}, {way}");
            let policy = observed(&config(kind, 2 * PAGE_SIZE), PAGE_SIZE);
            let mut session = Session::new(&shape(), &device.device, 5);
            for _ in 0..6 {
                let decoded = session.decode(&[true; 4]);
                session.attend(&decoded, &policy);
            }
            let before = session.cache.lengths()[0];
            match way {
                "truncate" => session.truncate(0, 40),
                "release" => session.cache.release(0).expect("the sequence exists"),
                _ => session.cache.reset(),
            }
            // Longer than before, so that what was seen then could be taken for what is there now.
            let new = before + 5 - session.cache.lengths()[0];
            session.prefill(&[new, 0, 0, 0]);
            let decoded = session.decode(&only_first);
            let layer = session.cache.layer(0);
            let parts = [layer.keys(), layer.values(), layer.digests()].map(Tensor::clone);
            let [keys, values_, digests] = parts;
            let mut fresh = LayerCache::from_parts(0, keys, values_, layer.digest(), digests);
            let query = decoded.queries[0].clone();
            let expected = policy.attention(query, &mut fresh, &decoded.step, session.scale());
            let expected = (values(&expected), policy.observations().take());
            let (outputs, observations) = session.attend(&decoded, &policy);
            assert_eq!((values(&outputs[0]), observations), expected, "{context}");
        }
    });
}
