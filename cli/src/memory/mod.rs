//! Whether weights, cache and work space fit into memory, before anything is allocated.

mod demand;
mod limits;

use anyhow::bail;
use burn::tensor::DType;
use indicatif::BinaryBytes;
use quest_burn::inference::WeightFormat;

use crate::device::{SelectedDevice, value_name};

pub(crate) use demand::{Demand, Form, Work};
use limits::{Bound, Room};

/// Refuses what the device has no memory for, and says what would fit; and a form that the weights
/// cannot have, whose bytes cannot be counted.
///
/// Devices and systems that do not say how much there is are trusted to have enough.
pub(crate) fn check(demand: &Demand, device: &SelectedDevice) -> anyhow::Result<()> {
    let Form { dtype, weights } = demand.form;
    demand.config.weight_bytes(dtype, weights)?;
    let rooms = rooms(device);
    let missing = |room: &&Room| demand.bytes(demand.form, demand.tokens) > room_for(room, demand);
    let Some(room) = rooms.iter().filter(missing).min_by_key(|room| room.bytes) else {
        return Ok(());
    };
    // A form is to fit all bounds.
    let fits = |form: Form, tokens: usize| {
        let bytes = demand.bytes(form, tokens);
        rooms.iter().all(|room| bytes <= room_for(room, demand))
    };
    bail!(
        "memory: expected room for {} ({}), found {} {}; {}",
        BinaryBytes(demand.bytes(demand.form, demand.tokens)),
        demand.parts(),
        BinaryBytes(room_for(room, demand)),
        room.bound,
        remedy(demand, device, &fits),
    )
}

/// What bounds the memory that a device computes in.
fn rooms(device: &SelectedDevice) -> Vec<Room> {
    if device.name.is_cpu() {
        return limits::of_process();
    }
    let bytes = quest_burn_benches::device_memory(&device.device);
    let room = bytes.map(|bytes| Room {
        bytes,
        bound: Bound::Device(value_name(device.name)),
    });
    room.into_iter().collect()
}

/// Bytes of a bound that are there for the model. Of the address space, the files of the weights
/// take a part while they are read, and so do the stacks of threads.
fn room_for(room: &Room, demand: &Demand) -> u64 {
    const STACK: u64 = 4 << 20;
    match room.bound {
        Bound::AddressSpace => {
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
            room.bytes
                .saturating_sub(demand.mapped_bytes())
                .saturating_sub(threads * STACK)
        }
        _ => room.bytes,
    }
}

/// What would fit: the largest cache as things are, and options with which all of it fits.
fn remedy(demand: &Demand, device: &SelectedDevice, fits: &dyn Fn(Form, usize) -> bool) -> String {
    let mut remedies = Vec::new();
    let longest = |form| demand.longest(&|tokens| fits(form, tokens));
    if let Some(tokens) = longest(demand.form) {
        remedies.push(match demand.frees_pages {
            true => format!(
                "{tokens} tokens at once fit: a shorter prompt or a smaller --token-budget keeps fewer"
            ),
            false => format!("the longest context that fits is {tokens} tokens"),
        });
    }
    let forms = other_forms(demand, device);
    let whole = |(form, _): &&(Form, String)| fits(*form, demand.tokens);
    let fitting = forms
        .iter()
        .filter(whole)
        .map(|(_, options)| options.clone());
    let fitting = fitting.collect::<Vec<_>>();
    if !fitting.is_empty() {
        remedies.push(format!("all of it fits with {}", fitting.join(" or ")));
    } else if let Some((tokens, options)) = forms
        .iter()
        .filter_map(|(form, options)| Some((longest(*form)?, options)))
        .max_by_key(|(tokens, _)| *tokens)
    {
        remedies.push(format!("with {options} it is {tokens} tokens"));
    }
    match remedies.is_empty() {
        true => "nothing fits, whatever the options".to_owned(),
        false => remedies.join("; "),
    }
}

/// Forms of the model that take less memory, with the options that ask for them, those that change
/// least first.
fn other_forms(demand: &Demand, device: &SelectedDevice) -> Vec<(Form, String)> {
    let half = demand.config.dtype.filter(|dtype| dtype.size() == 2);
    let half = half
        .into_iter()
        .chain([DType::F16])
        .find(|dtype| device.device.supports_dtype(*dtype))
        .filter(|_| demand.form.dtype == DType::F32);
    let dtypes = [Some(demand.form.dtype), half];
    // Weights that are stored in few bits stay in them.
    let weights = match demand.config.quantization {
        Some(_) => &[demand.form.weights][..],
        None => &WeightFormat::ALL[..],
    };
    let now = demand.bytes(demand.form, demand.tokens);
    let mut forms = Vec::new();
    for &weights in weights {
        // Those in full never take less than those that are stored, which take the same where nothing stays as it is stored.
        let is_no_less = match weights {
            WeightFormat::Full => true,
            WeightFormat::Stored => demand.kept.is_none(),
            _ => false,
        };
        if is_no_less && weights != demand.form.weights {
            continue;
        }
        for dtype in dtypes.into_iter().flatten() {
            let form = Form { dtype, weights };
            if demand.bytes(form, demand.tokens) < now {
                let mut options = Vec::new();
                if dtype != demand.form.dtype {
                    options.push(format!("--dtype {}", dtype.name()));
                }
                if weights != demand.form.weights {
                    options.push(format!("--weights {weights}"));
                }
                forms.push((form, options.join(" ")));
            }
        }
    }
    forms.sort_by_key(|(_, options)| options.matches("--").count());
    forms
}

#[cfg(test)]
mod tests;
