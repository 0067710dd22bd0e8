use std::{collections::BTreeMap, sync::Mutex};

use burn::tensor::bf16;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::source;

/// A folder with a Llama of one layer in bf16.
fn llama() -> TempDir {
    of_sizes(8, 12)
}

fn of_sizes(d_model: usize, d_ff: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d_model,
        "intermediate_size": d_ff, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 6,
        "max_position_embeddings": 32, "torch_dtype": "bfloat16", "note": "kept"
    });
    fs::write(dir.path().join(ModelConfig::FILE), config.to_string()).unwrap();
    fs::write(dir.path().join("merges.txt"), "a b").unwrap();
    fs::write(dir.path().join("README.md"), "not of the model").unwrap();
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    let shapes = crate::config::parameters::shapes(&config);
    let tensors = shapes.enumerate().map(|(seed, (name, shape))| {
        let n = shape.iter().product::<usize>();
        let values = (0..n).map(|i| bf16::from_f32(((seed * 31 + i) as f32).sin()));
        let bytes = values.flat_map(bf16::to_le_bytes).collect::<Vec<_>>();
        let bytes = burn::store::burn_pack::Bytes::from_bytes_vec(bytes);
        Tensor::new(name, DType::BF16, shape, None, bytes)
    });
    safetensors::write(dir.path(), tensors.collect(), u64::MAX).unwrap();
    dir
}

fn converted(from: &Path, conversion: &Conversion) -> (TempDir, Converted) {
    let dir = tempfile::tempdir().unwrap();
    let source = source::open(from).unwrap();
    let go_on = Box::new(|_, _| ControlFlow::Continue(()));
    let converted = convert(&*source, dir.path(), conversion, go_on).unwrap();
    (dir, converted)
}

/// Types, shapes and bytes.
fn content(dir: &Path) -> BTreeMap<String, (DType, Vec<usize>, Vec<u8>)> {
    let tensors = source::open(dir).unwrap().tensors().unwrap();
    let tensors = tensors.into_iter().map(|tensor| {
        let name = tensor.name.clone();
        let plain = tensor.into_plain(DType::F32);
        let (dtype, shape) = (plain.dtype, plain.shape.to_vec());
        (name, (dtype, shape, plain.into_bytes().unwrap().to_vec()))
    });
    tensors.collect()
}

#[test]
fn a_round_trip_through_burnpack_and_shards_changes_no_bit() {
    let original = llama();
    let burnpack = Conversion {
        target: Target::Burnpack,
        ..Conversion::default()
    };
    let (packed, summary) = converted(original.path(), &burnpack);
    let names = ["config.json", "merges.txt", "model.bpk"];
    assert_eq!(summary.files, names.map(PathBuf::from));
    assert_eq!(content(packed.path()), content(original.path()));

    let shards = Conversion {
        shard_bytes: 300,
        ..Conversion::default()
    };
    let (sharded, summary) = converted(packed.path(), &shards);
    assert!(summary.files.len() > 5, "{:?}", summary.files);
    let found = content(sharded.path());
    assert_eq!(found, content(original.path()));
    assert_eq!(summary.tensors, found.len());
    let bytes = found.values().map(|(_, _, bytes)| bytes.len() as u64);
    assert_eq!(summary.tensor_bytes, bytes.sum::<u64>());

    let (single, _) = converted(sharded.path(), &Conversion::default());
    let permissions = |name| {
        fs::metadata(single.path().join(name))
            .unwrap()
            .permissions()
    };
    assert_eq!(permissions("model.safetensors"), permissions("config.json"));
    for name in ["model.safetensors", "config.json", "merges.txt"] {
        let read = |dir: &TempDir| fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read(&single), read(&original), "{name}");
    }
}

#[test]
fn a_dtype_is_that_of_tensors_and_configuration() {
    let original = llama();
    let dtype = |dtype| Conversion {
        dtype: Some(dtype),
        ..Conversion::default()
    };
    let (wide, _) = converted(original.path(), &dtype(DType::F32));
    let config = ModelConfig::from_dir(wide.path()).unwrap();
    assert_eq!(config.dtype, Some(DType::F32));
    for (name, (dtype, shape, bytes)) in content(wide.path()) {
        let (_, stored_shape, stored) = &content(original.path())[&name];
        assert_eq!((dtype, &shape), (DType::F32, stored_shape), "{name}");
        let (values, _) = stored.as_chunks::<2>();
        let values = values.iter().map(|v| bf16::from_le_bytes(*v).to_f32());
        let expected = values.flat_map(f32::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(bytes, expected, "{name}");
    }
    let (narrow, _) = converted(wide.path(), &dtype(DType::BF16));
    assert_eq!(content(narrow.path()), content(original.path()));
    let text = fs::read_to_string(narrow.path().join(ModelConfig::FILE)).unwrap();
    assert!(text.contains("\"kept\""), "{text}");
}

/// What an inference model gives for a few tokens.
fn logits(dir: &Path, format: WeightFormat) -> Vec<f32> {
    use crate::local::LocalModel;

    let device = Device::default();
    let model = LocalModel::open(dir)
        .unwrap()
        .weights(format)
        .dtype(DType::F32);
    let model = model.load(&device).unwrap();
    let mut cache = model.cache(1, 8).init(&device, DType::F32).unwrap();
    let step = cache.prefill(&[5]).unwrap();
    let ids = burn::tensor::Tensor::from_data([[1, 2, 3, 4, 5]], &device);
    let model = model.model();
    let hidden = model.hidden(ids, &mut cache, &step, &quest_burn::policy::DensePolicy);
    model.logits(hidden).into_data().try_to_vec().unwrap()
}

#[test]
fn weights_in_few_bits_are_those_that_loading_rounds() {
    let original = of_sizes(32, 96);
    for format in [WeightFormat::Int4, WeightFormat::Int8] {
        let conversion = Conversion {
            dtype: Some(DType::F32),
            weights: format,
            ..Conversion::default()
        };
        let (few, summary) = converted(original.path(), &conversion);
        let config = ModelConfig::from_dir(few.path()).unwrap();
        assert_eq!(config.quantization.unwrap().group_size, Some(32));
        assert_eq!(content(few.path()).len(), summary.tensors);
        let expected = logits(original.path(), format);
        let furthest = |found: Vec<f32>| {
            let differences = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
            differences.fold(0.0, f32::max)
        };
        // Weights that are symmetric around zero are read as ones with a zero point, whose products
        // add up in another order.
        let found = furthest(logits(few.path(), WeightFormat::Full));
        let most = if format == WeightFormat::Int4 {
            0.0
        } else {
            1e-5
        };
        assert!(found <= most, "{format}: {found}");
        assert!(furthest(logits(original.path(), WeightFormat::Full)) > 1e-3);

        let source = source::open(few.path()).unwrap();
        let go_on = Box::new(|_, _| ControlFlow::Continue(()));
        let dir = tempfile::tempdir().unwrap();
        let again = convert(&*source, dir.path(), &conversion, go_on).unwrap_err();
        assert!(
            again.to_string().contains("expected weights in full"),
            "{again}"
        );
    }
}

#[test]
fn a_report_is_told_of_the_bytes_and_can_stop_the_writing() {
    let original = llama();
    let source = source::open(original.path()).unwrap();
    for target in [Target::Safetensors, Target::Burnpack] {
        let conversion = Conversion {
            target,
            ..Conversion::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let told = std::sync::Arc::new(Mutex::new(Vec::new()));
        let report = Box::new({
            let told = told.clone();
            move |done, total| {
                let mut told = told.lock().unwrap();
                told.push((done, total));
                match told.len() {
                    4 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            }
        });
        let error = convert(&*source, dir.path(), &conversion, report).unwrap_err();
        assert!(matches!(error, ConvertError::Stopped), "{error}");
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 4);
        assert!(
            told.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "{told:?}"
        );
        let total = content(original.path());
        let total = total.values().map(|(_, _, bytes)| bytes.len() as u64);
        assert_eq!(told[0], (0, total.sum()));
    }
}
