//! `cvt`: common pairs become plain table operations, the rest a general conversion.

use super::Decoder;
use super::inst::{Cvt, Kind, NONE};
use crate::error::Error;
use crate::exec::alu::Alu;
use crate::float::Round;
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_> {
    pub(super) fn cvt(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        if op.len() < 3 || op[1] == "pack" {
            return self.error("unsupported conversion");
        }
        let (Some(to), Some(from)) = (Ty::parse(&op[op.len() - 2]), Ty::parse(&op[op.len() - 1])) else {
            return self.error("unsupported conversion type");
        };
        if matches!(to, Ty::Pred | Ty::B128) || matches!(from, Ty::Pred | Ty::B128 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32)
        {
            return self.error("unsupported conversion type");
        }
        let mut c = Cvt {
            to,
            from,
            round: Round::Near,
            integral: None,
            sat: false,
            ftz: false,
            relu: false,
            away: false,
            wide_src: false,
            dst_bits: 32,
        };
        for w in &op[1..op.len() - 2] {
            match w.as_str() {
                "rn" => c.round = Round::Near,
                "rz" => c.round = Round::Zero,
                "rm" => c.round = Round::Down,
                "rp" => c.round = Round::Up,
                "rna" => c.away = true,
                "rni" => c.integral = Some(Round::Near),
                "rzi" => c.integral = Some(Round::Zero),
                "rmi" => c.integral = Some(Round::Down),
                "rpi" => c.integral = Some(Round::Up),
                "sat" => c.sat = true,
                "ftz" => c.ftz = true,
                "relu" => c.relu = true,
                "satfinite" if to.signed() => {}
                _ => return self.error(format!("unsupported conversion modifier .{w}")),
            }
        }
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            return self.cvt_pair(&c);
        }
        if from.float() && !to.float() && c.integral.is_none() {
            return self.error("float to integer needs .rni, .rzi, .rmi or .rpi");
        }
        self.expect_args(2)?;
        let (d_op, a_op) = (self.arg(0)?, self.arg(1)?);
        let Operand::Reg(d_reg) = d_op else { return self.error("a register is expected as destination") };
        c.dst_bits = self.reg_bits(*d_reg);
        let d = self.dst(d_op, c.dst_bits)?;
        // The source register may be wider than the type: its low bits count.
        let a = match a_op {
            Operand::Reg(r) => {
                c.wide_src = self.reg_bits(*r) == 64;
                self.src(a_op, if c.wide_src { Ty::B64 } else { Ty::B32 })?
            }
            _ => {
                c.wide_src = from.bits() == 64;
                self.src(a_op, from)?
            }
        };
        if (c.dst_bits == 64) != (to.bits() == 64) && to.float() {
            return self.error("destination register of the wrong width");
        }
        let plain = c == Cvt { to, from, wide_src: c.wide_src, dst_bits: c.dst_bits, round: Round::Near, ..c }
            && !c.sat
            && !c.ftz
            && !c.relu
            && !c.away
            && c.integral.is_none()
            && c.wide_src == (from.bits() == 64)
            && (c.dst_bits == to.bits().max(16) || (c.dst_bits == 32 && to == Ty::U16));
        let fast = match (to, from) {
            _ if !plain => None,
            (Ty::U32 | Ty::S32 | Ty::B32, Ty::U16 | Ty::B16) => Some(Alu::CvtU16U32),
            (Ty::U32 | Ty::S32 | Ty::B32, Ty::S16) => Some(Alu::CvtS16S32),
            (Ty::U64 | Ty::S64 | Ty::B64, Ty::U32 | Ty::B32) => Some(Alu::CvtU32U64),
            (Ty::U64 | Ty::S64 | Ty::B64, Ty::S32) => Some(Alu::CvtS32S64),
            (Ty::U32 | Ty::S32 | Ty::B32, Ty::U64 | Ty::S64 | Ty::B64) => Some(Alu::Cvt64To32),
            (Ty::U16 | Ty::B16, Ty::U32 | Ty::S32 | Ty::B32) => Some(Alu::Mov16),
            (Ty::F32, Ty::S32) => Some(Alu::CvtF32S32),
            (Ty::F32, Ty::U32) => Some(Alu::CvtF32U32),
            (Ty::F64, Ty::F32) => Some(Alu::CvtF64F32),
            (Ty::F32, Ty::F64) => Some(Alu::CvtF32F64),
            (Ty::F32, Ty::F16) => Some(Alu::CvtF32F16),
            (Ty::F32, Ty::Bf16) => Some(Alu::CvtF32Bf16),
            (Ty::F16, Ty::F32) => Some(Alu::CvtF16F32),
            (Ty::Bf16, Ty::F32) => Some(Alu::CvtBf16F32),
            _ => None,
        };
        Ok(match fast {
            Some(op) => Kind::Alu { op, d, a, b: NONE, c: NONE, imm: 0 },
            None => Kind::Cvt { spec: Box::new(c), d, a },
        })
    }

    /// `cvt.rn.bf16x2.f32 d, a, b`: a goes to the upper half.
    fn cvt_pair(&mut self, c: &Cvt) -> Result<Kind, Error> {
        self.expect_args(3)?;
        let op = match (c.to, c.round, c.relu, c.from, c.sat || c.ftz) {
            (Ty::Bf16x2, Round::Near, false, Ty::F32, false) => Alu::CvtBf16x2,
            (Ty::F16x2, Round::Near, false, Ty::F32, false) => Alu::CvtF16x2,
            (Ty::Bf16x2, Round::Near, true, Ty::F32, false) => Alu::CvtBf16x2Relu,
            (Ty::F16x2, Round::Near, true, Ty::F32, false) => Alu::CvtF16x2Relu,
            (Ty::Bf16x2, Round::Zero, false, Ty::F32, false) => Alu::CvtBf16x2Rz,
            (Ty::F16x2, Round::Zero, false, Ty::F32, false) => Alu::CvtF16x2Rz,
            _ => return self.error("unsupported conversion"),
        };
        let d = self.dst_at(0, 32)?;
        let (a, b) = (self.src_at(1, Ty::F32)?, self.src_at(2, Ty::F32)?);
        Ok(Kind::Alu { op, d, a, b, c: NONE, imm: 0 })
    }
}
