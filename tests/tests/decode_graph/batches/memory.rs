//! What a recording keeps, and until when.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::{AssignedPages, PagedKvCache, Step},
    decode::{BatchGraph, DecodeModel},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    generation::batch_graph,
    model::{CausalLm, LanguageModel},
};
use quest_burn_tests::devices::devices;

use super::{
    super::{VOCAB_SIZE, alone, model, tokens::records},
    PAGES, WHOLE, cache, for_each_model,
};

/// A model that others hold as well, so that its weights are not those of a recording.
struct Lent<'a>(&'a CausalLm);

impl DecodeModel for Lent<'_> {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2> {
        let hidden = self.0.hidden(tokens, cache, step, &DensePolicy);
        self.0.logits(hidden).squeeze_dim(1)
    }
}

#[test]
fn a_recording_that_is_dropped_holds_no_memory() {
    for_each_model(|test_device, model| {
        let device = &test_device.device;
        let mut cache = cache(WHOLE, device);
        let usage = || {
            device.sync().unwrap();
            device.memory_cleanup();
            // The device's thread takes its tasks in turn.
            device.sync().unwrap();
            device.memory_pool_usage().expect("it is counted")
        };
        let recorded = |cache: &mut PagedKvCache| {
            let graph = BatchGraph::record(Lent(model), cache, 32, PAGES);
            let mut graph = graph.expect("the device records");
            let page = AssignedPages {
                pages: &[0],
                length: 0,
                new_tokens: 1,
            };
            graph.step(cache, &[page], &[1]).unwrap();
            graph
        };
        // The first one leaves behind what a device keeps for good: kernels, and the shapes that they were launched with.
        recorded(&mut cache);
        let before = usage();
        let with_graph = {
            let _graph = recorded(&mut cache);
            usage()
        };
        let after = usage();
        println!("{test_device}: {before:?}, {with_graph:?} with a recording, {after:?} after it");
        assert!(
            with_graph.bytes_in_use > before.bytes_in_use,
            "{test_device}"
        );
        assert!(after.bytes_in_use <= before.bytes_in_use, "{test_device}");
        // A recording's blocks serve nobody else: if they were kept, the next recording took others.
        assert!(
            after.bytes_reserved <= before.bytes_reserved,
            "{test_device}"
        );
    });
}

#[test]
fn a_recording_keeps_what_was_shared_with_it() {
    let _alone = alone();
    for test_device in devices().into_iter().filter(records) {
        let device = &test_device.device;
        let lm: Arc<dyn LanguageModel> = Arc::new(model(device));
        let policy: Arc<dyn PagePolicy> = Arc::new(DensePolicy);
        let mut cache = cache(WHOLE, device);
        let graph = batch_graph(lm, policy, &mut cache, 1, 1);
        let mut graph = graph.expect("the device records");
        let page = AssignedPages {
            pages: &[3],
            length: 0,
            new_tokens: 1,
        };
        graph.step(&mut cache, &[page], &[1]).unwrap();
        let expected = graph.most_probable().unwrap();
        // These would lie where the weights were, if they were free.
        let line = TensorData::new(vec![f32::NAN; 4096], [4096]);
        let _others = [(); 32].map(|()| Tensor::<1>::from_data(line.clone(), device));
        graph.step(&mut cache, &[page], &[1]).unwrap();
        assert_eq!(graph.most_probable().unwrap(), expected);
    }
}
