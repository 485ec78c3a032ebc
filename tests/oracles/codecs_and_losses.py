"""AudioCraft's codec: autoencoder, quantiser in training, discriminators, losses, balancer."""

from typing import Any

import torch
from pack import Facts, Pack, Packs, Tensors, put
from torch import Tensor, nn


def make_codec(pack: Pack, packs: Packs) -> None:
    """Encode, decode, and train for one step."""
    for case in pack.facts["cases"]:
        name = case["name"]
        weights, wav = starting_weights(pack, name), pack.given(f"{name}.wav")
        with torch.no_grad():
            model = build_codec(case, weights).eval()
            inside, scale = model.preprocess(wav)
            codes, _ = model.encode(wav)
            decoded, whole = model.decode(codes, scale), model(wav)
            put(pack, name, latent=model.encoder(inside), codes=codes, decoded=decoded, forward=whole.x)
            put(pack, name, forward_bandwidth_kbps=whole.bandwidth)
            if scale is not None:
                put(pack, name, scale=scale)
        model = build_codec(case, weights).train()
        result = model(wav)
        distance = (result.x - wav).abs().mean()
        (distance + result.penalty).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        norm = torch.stack([g.pow(2).sum() for g in gradients.values()]).sum().sqrt()
        put(pack, f"{name}.train", out=result.x, penalty=result.penalty, l1=distance, grad_norm=norm)
        first = next(gradient for n, gradient in gradients.items() if n.endswith("weight_v"))
        pack.put(**{f"{name}.train.grad.encoder_first": first})
        for level, layer in enumerate(model.quantizer.vq.layers):
            pack.put(**{f"{name}.train.embed_after.{level}": layer._codebook.embed})
        # The committed state is the one after the training pass, and so is this one.
        put(pack, f"{name}.weights", **{n: value for n, value in model.state_dict().items() if "_codebook" in n})


def starting_weights(pack: Pack, name: str) -> Tensors:
    """Return the state before the training pass.

    The committed codebooks are those after it. One step of the moving average is undone: its decay is 0.99, its sums
    start at the codebooks, its counts at 0.
    """
    weights = pack.given_under(f"{name}.weights.")
    residual = pack.committed[f"{name}.latent"].double().transpose(1, 2).flatten(0, 1)
    for level, codes in enumerate(pack.committed[f"{name}.codes"].transpose(0, 1).flatten(1)):
        book = f"quantizer.vq.layers.{level}._codebook."
        averages = pack.committed[f"{name}.weights.{book}embed_avg"].double()
        sums = torch.zeros_like(averages).index_add_(0, codes, residual)
        before = (averages - 0.01 * sums) / 0.99
        residual = residual - before[codes]
        if pack.generator is not None:
            before = before.std() * torch.randn(before.shape, generator=pack.generator)
        weights |= {f"{book}embed": before.float(), f"{book}embed_avg": before.float()}
        weights |= {f"{book}cluster_size": torch.zeros(len(before)), f"{book}inited": torch.ones(1)}
    return weights


def build_codec(case: Facts, weights: Tensors) -> Any:
    """Return AudioCraft's EnCodec with the weights of a case."""
    from audiocraft.models.encodec import EncodecModel
    from audiocraft.modules import SEANetDecoder, SEANetEncoder
    from audiocraft.quantization import ResidualVectorQuantizer

    encoder = SEANetEncoder(**case["seanet"])
    decoder = SEANetDecoder(**case["seanet"], trim_right_ratio=case["trim_right_ratio"])
    quantizer = ResidualVectorQuantizer(case["seanet"]["dimension"], kmeans_init=False, **case["rvq"])
    model = EncodecModel(
        encoder,
        decoder,
        quantizer,
        frame_rate=case["frame_rate"],
        sample_rate=case["sample_rate"],
        channels=case["seanet"]["channels"],
        causal=case["seanet"]["causal"],
        renormalize=case["renormalize"],
    )
    model.load_state_dict(weights)
    return model


def make_rvq_train(pack: Pack, packs: Packs) -> None:
    """Train a residual quantiser for three steps, with and without replacing unused codes."""
    from audiocraft.quantization import ResidualVectorQuantizer

    facts = pack.facts
    for threshold in (0, 2):
        key = f"thr{threshold}"
        quantizer = ResidualVectorQuantizer(**facts["config"], kmeans_init=False, threshold_ema_dead_code=threshold)
        start = {name: pack.given(f"thr0.step0.{name}") for name in quantizer.state_dict()}
        if threshold:
            put(pack, f"{key}.step0", **start)
        quantizer.load_state_dict(start)
        quantizer.train()
        for step in range(3):
            x, upstream = pack.given(f"x{step}").clone().requires_grad_(), pack.given(f"gout{step}")
            result = quantizer(x, facts["frame_rate"])
            ((result.x * upstream).sum() + result.penalty).backward()
            named = {"out": result.x, "codes": result.codes, "penalty": result.penalty, "xgrad": x.grad}
            put(pack, key, **{f"{name}{step}": value for name, value in named.items()})
            put(pack, f"{key}.step{step + 1}", **quantizer.state_dict())
        if not threshold:
            quantizer.eval()
            with torch.no_grad():
                x = pack.given("eval.x")
                codes = quantizer.encode(x)
                forward = quantizer(x, facts["frame_rate"]).x
                put(pack, "eval", codes=codes, decoded=quantizer.decode(codes), forward=forward)


def make_discriminator(pack: Pack, packs: Packs) -> None:
    """Run discriminators on spectrograms, with every loss for the generator and for the discriminators."""
    from audiocraft.adversarial import losses
    from audiocraft.adversarial.discriminators import MultiScaleSTFTDiscriminator

    config = dict(pack.facts["config"])
    config["activation_params"] = {"negative_slope": config.pop("negative_slope")}
    config["kernel_size"], config["stride"] = tuple(config["kernel_size"]), tuple(config["stride"])
    discriminator = MultiScaleSTFTDiscriminator(**config)
    discriminator.load_state_dict(pack.given_under("weights."))
    fake, real = pack.given("fake"), pack.given("real")
    with torch.no_grad():
        for name, sound in (("fake", fake), ("real", real)):
            logits, maps = discriminator(sound)
            put(pack, name, **{f"logits.{index}": value for index, value in enumerate(logits)})
            if name == "fake":
                every = {f"fmap.{i}.{j}": value for i, scale in enumerate(maps) for j, value in enumerate(scale)}
                put(pack, name, **every)
    still = torch.optim.SGD(discriminator.parameters(), lr=0.0)
    for loss in ("hinge", "mse", "hinge2"):
        criteria = [getattr(losses, f"get_{kind}_criterion")(loss) for kind in ("adv", "real", "fake")]
        feature = losses.FeatureMatchingLoss(nn.L1Loss(), normalize=pack.facts["feature_matching"]["normalize"])
        training = losses.AdversarialLoss(
            discriminator, still, *criteria, loss_feat=feature, normalize=pack.facts["normalize"]
        )
        sound = fake.clone().requires_grad_()
        adversarial, features = training(sound, real)
        (adversarial + features).backward()
        put(pack, loss, adv=adversarial, feat=features, grad_fake_of_adv_plus_feat=sound.grad)
        put(pack, loss, d_loss=training.train_adv(fake, real))
    stereo = {"in_channels": 2, "n_ffts": [64], "hop_lengths": [16], "win_lengths": [64]}
    discriminator = MultiScaleSTFTDiscriminator(**config | stereo)
    discriminator.load_state_dict(pack.given_under("stereo.weights."))
    with torch.no_grad():
        pack.put(**{"stereo.logits.0": discriminator(pack.given("stereo.in"))[0][0]})


def make_spectral_losses(pack: Pack, packs: Packs) -> None:
    """Compare two sounds by mel spectrograms, spectrograms and SI-SNR."""
    from audiocraft.losses import SISNR, MelSpectrogramL1Loss, MRSTFTLoss, MultiScaleMelSpectrogramLoss

    kinds = {
        "msspec_norm_noalpha": MultiScaleMelSpectrogramLoss,
        "msspec_alpha": MultiScaleMelSpectrogramLoss,
        "mel_l1": MelSpectrogramL1Loss,
        "mrstft": MRSTFTLoss,
        "sisnr": SISNR,
    }
    target = pack.given("target")
    for case in pack.facts["cases"]:
        name = case["name"]
        loss = kinds[name](**{knob: value for knob, value in case.items() if knob not in ("name", "epsilon")})
        sound = pack.given("pred").clone().requires_grad_()
        value = loss(sound, target)
        put(pack, name, loss=value)
        if f"{name}.grad" in pack.committed:
            value.backward()
            put(pack, name, grad=sound.grad)
        if name == "msspec_alpha":
            last = {"linear": loss.l1s[-1], "log10": loss.l2s[-1]}
            with torch.no_grad():
                put(pack, "wrapper_last_scale", **{kind: scale(sound) for kind, scale in last.items()})


def make_balancer(pack: Pack, packs: Packs) -> None:
    """Balance three losses over four steps."""
    from audiocraft.losses import Balancer

    a, b, w = (pack.given(name) for name in ("a", "b", "w"))

    def losses_of(y: Tensor) -> Tensors:
        return {"l1": (y - a).abs().mean(), "mse": 50 * (y - b).pow(2).mean(), "lin": 0.001 * (y * w).sum()}

    for case in pack.facts["cases"]:
        name = case["name"]
        knobs = {knob: value for knob, value in case.items() if knob not in ("name", "weights")}
        balancer = Balancer(case["weights"], monitor=True, **knobs)
        for step in range(4):
            y = pack.given(f"y{step}").clone().requires_grad_()
            effective = balancer.backward(losses_of(y), y)
            ratios = {ratio: torch.as_tensor(value) for ratio, value in balancer.metrics.items()}
            put(pack, f"{name}.step{step}", effective_loss=effective, grad=y.grad, **ratios)
