//! Whether two sources hold the same weights in different forms: dense, in another floating-point type that lost nothing, or
//! quantised to NF4. A fingerprint tells files apart; this tells models apart.
//!
//! Quantising leaves embedding and norms as they are and turns a block of 64 weights of a linear (or of the head) into codes that
//! depend on that block alone, whatever becomes of the scales. So a few elements of the former as numbers, and the codes of a
//! few blocks of the latter, are the same before and after. Nothing else of the model is read.

use super::ModelConfig;
use crate::{
    Result, digest,
    model::catalogue::{ModelTensor, Role, tensors},
    quant::nf4::{self, Nf4},
    tensor::Tensor,
};
use sha2::{Digest, Sha256};
use std::ops::Range;

/// Some of a tensor's elements, as the source holds them.
pub(super) enum Sampled {
    /// Numbers.
    Values(Vec<f32>),
    /// NF4 codes, two in a byte.
    Codes(Vec<u8>),
}

/// SHA-256 over, of every tensor of the model, its name, its shape and three blocks of elements: its first, one
/// in its middle, its last. `sample` gives the elements of a tensor in a range that begins with a block.
///
/// # Errors
/// As `sample`.
pub(super) fn likeness(
    config: &ModelConfig,
    sample: impl Fn(&ModelTensor, Range<usize>) -> Result<Sampled>,
) -> Result<String> {
    let mut hash = Sha256::new();
    for t in tensors(config) {
        hash.update(format!("\n{} {:?}\n", t.name, t.shape));
        let elements = t.elements();
        let last = elements.div_ceil(nf4::BLOCK).saturating_sub(1);
        for block in [0, last / 2, last] {
            let start = block * nf4::BLOCK;
            match sample(&t, start..(start + nf4::BLOCK).min(elements))? {
                Sampled::Codes(codes) => hash.update(codes),
                Sampled::Values(values) if can_be_packed(t.role) => hash.update(codes_of(&values)?),
                Sampled::Values(values) => hash.update(bytemuck::cast_slice::<f32, u8>(&values)),
            }
        }
    }
    Ok(digest::hex(&hash.finalize()))
}

/// Whether a checkpoint may hold a tensor in NF4: the linears of layers, and a head of its own.
fn can_be_packed(role: Role) -> bool {
    matches!(role, Role::Linear(..) | Role::Head)
}

/// The codes that quantising makes of a block; one that is not whole is filled up with zeros.
fn codes_of(values: &[f32]) -> Result<Vec<u8>> {
    let mut whole = values.to_vec();
    whole.resize(nf4::BLOCK, 0.0);
    let block = Tensor::vector(&whole);
    Ok(Nf4::of(block.floats()?).packed.into_owned())
}

#[cfg(test)]
mod tests {
    use crate::model::source::open;
    use std::path::Path;

    #[test]
    fn a_model_is_like_itself_in_another_form_and_unlike_any_other() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models");
        let of = |name: &str| {
            let source = open(name).unwrap().source;
            (source.fingerprint().unwrap(), source.likeness().unwrap())
        };
        let golden = |name: &str| of(goldens.join(name).to_str().unwrap());
        let [tied, untied, nf4] = ["tied", "untied", "untied-nf4"].map(golden);
        assert!(untied.0 != nf4.0 && untied.1 == nf4.1, "what bitsandbytes quantised is the model it was made of");
        assert_ne!(tied.1, untied.1);
        let [three, again, four] = ["synthetic:tiny@3", "synthetic:tiny@3", "synthetic:tiny@4"].map(of);
        assert!(three.1 == again.1 && three.1 != four.1);
    }
}
