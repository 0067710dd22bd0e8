//! Small random checkpoints with quantised projections, packed as AutoGPTQ and AutoAWQ pack them, and
//! the same weights in full.

use std::{collections::HashMap, fs, path::Path};

use half::f16;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::checkpoint::{self, CheckpointSpec};

/// How the projections are quantised.
#[derive(Clone, Copy, Debug)]
pub struct PackedSpec {
    /// `gptq`, `gptq_v2` or `awq`.
    pub layout: &'static str,
    /// Bits of a weight.
    pub bits: usize,
    /// Weights of a group; all inputs where there is none.
    pub group_size: Option<usize>,
}

/// The tensors of a checkpoint, to be changed before they are written.
pub type Tensors = HashMap<String, Packed>;

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub bytes: Vec<u8>,
}

impl Packed {
    /// 32-bit integers.
    pub fn ints(shape: [usize; 2], values: &[u32]) -> Self {
        let shape = shape.into_iter().filter(|&n| n > 0);
        Self {
            dtype: Dtype::I32,
            shape: shape.collect(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    /// Numbers in f32.
    pub fn floats(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }
}

/// Random integers of a projection, with the scales and zero points of their groups.
struct Integers {
    d_output: usize,
    d_input: usize,
    groups: usize,
    group_size: usize,
    /// `[d_output][d_input]`
    values: Vec<Vec<u32>>,
    /// `[group][d_output]`
    scales: Vec<Vec<f16>>,
    /// `[group][d_output]`
    zeros: Vec<Vec<u32>>,
}

impl Integers {
    fn new(spec: PackedSpec, d_output: usize, d_input: usize, rng: &mut StdRng) -> Self {
        let group_size = spec.group_size.unwrap_or(d_input);
        let groups = d_input.div_ceil(group_size);
        let levels = 1u32 << spec.bits;
        let step = 4.0 / (d_input as f32).sqrt() / levels as f32;
        let mut draw = |n: usize, m: usize| {
            let row = |rng: &mut StdRng| (0..m).map(|_| rng.random_range(0..levels)).collect();
            (0..n).map(|_| row(rng)).collect::<Vec<Vec<u32>>>()
        };
        let (values, zeros) = (draw(d_output, d_input), draw(groups, d_output));
        let mut scale = || f16::from_f32(step * rng.random_range(0.5..1.5));
        let scales = (0..groups).map(|_| (0..d_output).map(|_| scale()).collect());
        Self {
            scales: scales.collect(),
            d_output,
            d_input,
            groups,
            group_size,
            values,
            zeros,
        }
    }

    /// `[d_output, d_input]`
    fn full(&self) -> Vec<f32> {
        let mut full = Vec::new();
        for output in 0..self.d_output {
            for input in 0..self.d_input {
                let group = input / self.group_size;
                let zero = self.zeros[group][output] as f32;
                let scale = self.scales[group][output].to_f32();
                full.push((self.values[output][input] as f32 - zero) * scale);
            }
        }
        full
    }

    fn scales(&self) -> Packed {
        let scales = self.scales.iter().flatten();
        Packed {
            dtype: Dtype::F16,
            shape: vec![self.groups, self.d_output],
            bytes: scales.flat_map(|scale| scale.to_le_bytes()).collect(),
        }
    }

    /// Words whose `i`-th integers are those of row `i` below the word's first.
    fn gptq(&self, spec: PackedSpec) -> [Packed; 2] {
        let per_word = 32 / spec.bits;
        let mut weights = vec![0u32; self.d_input / per_word * self.d_output];
        for (output, row) in self.values.iter().enumerate() {
            for (input, value) in row.iter().enumerate() {
                let word = input / per_word * self.d_output + output;
                weights[word] |= value << (spec.bits * (input % per_word));
            }
        }
        let mask = (1u32 << spec.bits) - 1;
        let less = u32::from(spec.layout == "gptq");
        let columns = self.d_output / per_word;
        let mut zeros = vec![0u32; self.groups * columns];
        for (group, row) in self.zeros.iter().enumerate() {
            for (output, zero) in row.iter().enumerate() {
                let stored = zero.wrapping_sub(less) & mask;
                zeros[group * columns + output / per_word] |=
                    stored << (spec.bits * (output % per_word));
            }
        }
        [
            Packed::ints([self.d_input / per_word, self.d_output], &weights),
            Packed::ints([self.groups, columns], &zeros),
        ]
    }

    /// Words of eight neighbouring outputs in this order, from the lowest bits on.
    fn awq(&self) -> [Packed; 2] {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let columns = self.d_output / 8;
        let pack = |rows: usize, value: &dyn Fn(usize, usize) -> u32| {
            let mut words = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    let bits = ORDER.iter().enumerate();
                    words.push(bits.fold(0, |word, (i, output)| {
                        word | value(row, 8 * column + output) << (4 * i)
                    }));
                }
            }
            Packed::ints([rows, columns], &words)
        };
        [
            pack(self.d_input, &|input, output| self.values[output][input]),
            pack(self.groups, &|group, output| self.zeros[group][output]),
        ]
    }
}

/// Writes a checkpoint with quantised projections into `packed`, its tensors as `change` leaves them,
/// and one with the same weights in full into `full`.
///
/// # Panics
///
/// When a file cannot be written.
pub fn write(
    spec: &CheckpointSpec,
    quantization: PackedSpec,
    packed: &Path,
    full: &Path,
    change: impl FnOnce(&mut Tensors),
) {
    checkpoint::write(full, spec);
    let file = full.join("model.safetensors");
    let mut full_tensors = read(&file);
    let mut tensors = Tensors::new();
    let mut rng = StdRng::seed_from_u64(9);
    let mut names = full_tensors.keys().cloned().collect::<Vec<_>>();
    names.sort();
    for name in names {
        let tensor = full_tensors.get_mut(&name).expect("its name was listed");
        let Some(projection) = name.strip_suffix("_proj.weight") else {
            tensors.insert(name, tensor.clone());
            continue;
        };
        let (d_output, d_input) = (tensor.shape[0], tensor.shape[1]);
        let integers = Integers::new(quantization, d_output, d_input, &mut rng);
        *tensor = Packed::floats(&[d_output, d_input], &integers.full());
        let projection = format!("{projection}_proj");
        let [qweight, qzeros] = match quantization.layout {
            "awq" => integers.awq(),
            _ => integers.gptq(quantization),
        };
        tensors.insert(format!("{projection}.qweight"), qweight);
        tensors.insert(format!("{projection}.qzeros"), qzeros);
        tensors.insert(format!("{projection}.scales"), integers.scales());
        if quantization.layout != "awq" {
            let groups = (0..d_input).map(|input| (input / integers.group_size) as u32);
            let groups = Packed::ints([d_input, 0], &groups.collect::<Vec<_>>());
            tensors.insert(format!("{projection}.g_idx"), groups);
        }
    }
    write_tensors(&file, &full_tensors);
    change(&mut tensors);
    write_tensors(&packed.join("model.safetensors"), &tensors);
    let text = fs::read_to_string(full.join("config.json")).expect("it was written");
    let mut config = serde_json::from_str::<Value>(&text).expect("it is JSON");
    config["quantization_config"] = quantization_config(quantization);
    fs::write(packed.join("config.json"), config.to_string()).expect("the folder is there");
}

fn quantization_config(spec: PackedSpec) -> Value {
    let group_size = spec.group_size.map_or(-1, |size| size as i64);
    match spec.layout {
        "awq" => json!({
            "quant_method": "awq", "bits": spec.bits, "group_size": group_size,
            "version": "gemm", "zero_point": true, "modules_to_not_convert": null
        }),
        "gptq" => json!({
            "quant_method": "gptq", "bits": spec.bits, "group_size": group_size,
            "desc_act": false, "sym": false, "damp_percent": 0.1
        }),
        layout => json!({
            "quant_method": "gptq", "checkpoint_format": layout, "bits": spec.bits,
            "group_size": group_size, "desc_act": false
        }),
    }
}

fn read(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("the file was written above");
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let tensor = Packed {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        (name, tensor)
    };
    tensors.tensors().into_iter().map(tensor).collect()
}

fn write_tensors(file: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name, view.expect("the bytes are those of the shape"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
