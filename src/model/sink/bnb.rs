//! A quantised tensor as bitsandbytes stores it: the packed values under the tensor's name and five records beside it. The
//! counterpart of `source/bnb.rs`, which reads them.

use crate::{
    Result,
    model::catalogue::ModelTensor,
    quant::{
        nested,
        nf4::{self, Nf4},
        state::{self, QuantState},
    },
    tensor::{DType, Tensor},
};

/// Gives `push` the tensors of `t`, in bitsandbytes' order.
pub(super) fn write(
    t: &ModelTensor,
    data: &Nf4,
    original: DType,
    double_quant: bool,
    push: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
) -> Result<()> {
    let name = |suffix: &str| format!("{}.{suffix}", t.name);
    push(&t.name, &Tensor::new(DType::U8, [data.packed.len(), 1], &data.packed[..]))?;
    let mut offset = None;
    if double_quant {
        let coded = nested::encode(&data.absmax, nested::Search::Nearest);
        push(&name(state::ABSMAX), &Tensor::new(DType::U8, [coded.codes.len()], &coded.codes[..]))?;
        push(&name(state::NESTED_ABSMAX), &Tensor::vector(&coded.absmax))?;
        push(&name(state::NESTED_QUANT_MAP), &Tensor::vector(&nested::dynamic_map()))?;
        offset = Some(coded.offset);
    } else {
        push(&name(state::ABSMAX), &Tensor::vector(&data.absmax))?;
    }
    push(&name(state::QUANT_MAP), &Tensor::vector(&nf4::CODE))?;
    let record = QuantState::nf4(original.torch(), &t.shape, offset).to_json();
    push(&name(state::QUANT_STATE), &Tensor::new(DType::U8, [record.len()], record.as_bytes()))
}
