//! What cannot do without the tokens that leave.

use quest_burn::policy::PolicyConfig;
use quest_burn_models::{
    config::{ModelConfig, Windows},
    generation::LikelihoodMode,
    speculative::LosslessConfig,
};

use super::*;

#[test]
fn what_needs_all_tokens_is_refused() {
    let folder = folder();
    let lazy = lazy(["0.4", "0.4"], Some("0.3"));
    let model = model(
        &folder,
        &Device::default(),
        PrefillConfig::Lazy(lazy.clone()),
    );
    let mut session = model.session().unwrap();
    let error = session
        .set_lossless(Some(LosslessConfig::new()))
        .unwrap_err();
    assert!(error.is_bad_request());
    assert_eq!(
        error.to_string(),
        "lossless generation: expected prompts whose tokens are in every layer, found lazy ones"
    );
    let mode = LikelihoodMode::Dense { chunk: 16 };
    let error = session
        .likelihoods(&ids(20), mode, &mut |_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "likelihoods of a prompt: expected one whose tokens are in every layer, found a lazy one: only what is \
         decoded after it can be scored"
    );
    let mode = LikelihoodMode::Decode {
        prefill: 40,
        chunk: 16,
    };
    assert_eq!(
        session
            .likelihoods(&ids(50), mode, &mut |_| ())
            .unwrap()
            .len(),
        10
    );

    let raas = PolicyConfig::new("raas:free=true".parse().unwrap());
    session.set_policy(raas.init(8).unwrap().into());
    assert_eq!(
        session.decode(3).unwrap_err().to_string(),
        "tokens of lazy prompts that come back: expected a policy that keeps all pages, found one that frees some"
    );

    let error = PrefillConfig::Lazy(lazy).init(8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "lazy prompts: expected one sequence in a session, which has a cache for each stage, found one cache for \
         all layers"
    );
}

#[test]
fn layers_that_the_model_does_not_have_are_refused_before_weights_are_read() {
    let folder = folder();
    let config = LazyPrefillConfig::new().with_layers(vec![2, 6]);
    let builder = LocalModel::open(folder.path()).unwrap();
    let error = builder
        .prefill(PrefillConfig::Lazy(config))
        .check()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "lazy prompts: expected ascending layers from 1 to 5 after which tokens leave, found 2, 6"
    );
}

#[test]
fn models_with_windows_are_refused() {
    let folder = folder();
    let mut config = ModelConfig::from_dir(folder.path()).unwrap();
    config.blocks.windows = Some(Windows {
        tokens: 24,
        are_chunks: false,
        layers: vec![true; N_LAYERS],
        rope: None,
    });
    let model = config.init(&Device::default());
    let lazy = PrefillConfig::Lazy(LazyPrefillConfig::new());
    let model = LocalModel::new(config, model).with_prefill(lazy);
    assert_eq!(
        model.session().unwrap_err().to_string(),
        "lazy prompts: expected a model without windows, found windows of 24 tokens"
    );
}
