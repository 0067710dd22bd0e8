//! What a recording keeps, and until when.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::{AssignedPages, DigestStorage, PagedKvCache, Step},
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
    PAGES, cache,
};

/// Counts who holds it.
struct Counted {
    model: CausalLm,
    _held: Arc<()>,
}

impl DecodeModel for Counted {
    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2> {
        let hidden = self.model.hidden(tokens, cache, step, &DensePolicy);
        self.model.logits(hidden).squeeze_dim(1)
    }
}

#[test]
fn a_recording_that_is_dropped_holds_no_memory() {
    let _alone = alone();
    for test_device in devices().into_iter().filter(records) {
        let device = &test_device.device;
        let mut cache = cache(DigestStorage::Full, device);
        let held = Arc::new(());
        let model = Counted {
            model: model(device),
            _held: Arc::clone(&held),
        };
        let reserved = || {
            device.sync().unwrap();
            device.memory_cleanup();
            // The device's thread takes its tasks in turn.
            device.sync().unwrap();
            device
                .memory_pool_usage()
                .expect("it is counted")
                .bytes_reserved
        };
        let graph = BatchGraph::record(model, &mut cache, 32, PAGES);
        let mut graph = graph.expect("the device records");
        let page = AssignedPages {
            pages: &[0],
            length: 0,
            new_tokens: 1,
        };
        graph.step(&mut cache, &[page], &[1]).unwrap();
        let with_graph = reserved();
        drop(graph);
        assert_eq!(Arc::strong_count(&held), 1, "{test_device}");
        let without = reserved();
        println!("{test_device}: {with_graph} bytes, {without} without the recording");
        assert!(without < with_graph, "{test_device}");
    }
}

#[test]
fn a_recording_keeps_what_was_shared_with_it() {
    let _alone = alone();
    for test_device in devices().into_iter().filter(records) {
        let device = &test_device.device;
        let lm: Arc<dyn LanguageModel> = Arc::new(model(device));
        let policy: Arc<dyn PagePolicy> = Arc::new(DensePolicy);
        let mut cache = cache(DigestStorage::Full, device);
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
