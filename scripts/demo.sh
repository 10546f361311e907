#!/usr/bin/env bash
# From nothing to a fly-through: makes the virtual environment where it is missing (or takes the one in FLOWCAM_VENV),
# films a procedural scene, estimates its cameras, trains a field on it, scores both, and renders pictures and a flight.
# Everything lands in demo/ (or the folder given as the first argument). Takes a few minutes on a laptop without a GPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare
cd "$PROJECT"
demo=${1:-demo}
# nerfstudio 1.1.5 warns at length about its own use of newer torch versions.
export PYTHONWARNINGS=ignore

say() {
  echo
  echo "== $*"
}

say "A demo clip"
python scripts/make_clip.py --output-dir "$demo"

say "Camera poses, as a dataset for other methods"
flowcam-poses "$demo/demo.mp4" --output-dir "$demo/poses"
python scripts/score_poses.py "$demo/poses/transforms.json" "$demo/truth.json"

say "Training a field (open the viewer's address below to watch)"
ns-train flowcam --data "$demo/demo.mp4" --output-dir "$demo/runs" --viewer.quit-on-train-completion True
config=$(ls -t "$demo"/runs/demo/flowcam/*/config.yml | head -n 1)

say "Scores on held-out frames"
ns-eval --load-config "$config" --output-path "$demo/scores.json"
cat "$demo/scores.json"

say "Held-out frames, what the field shows in their place, and its depth"
ns-render dataset --load-config "$config" --output-path "$demo/renders" --split test \
  --rendered-output-names gt-rgb rgb raw-depth --image-format png

say "A flight along the cameras, without their shaking"
python scripts/make_camera_path.py "$(dirname "$config")" --output "$demo/path.json"
ns-render camera-path --load-config "$config" --camera-path-filename "$demo/path.json" --output-path "$demo/flight.mp4"

say "Small pictures of all that"
python scripts/make_pictures.py --renders "$demo/renders/test" --flight "$demo/flight.mp4" \
  --trajectory "$demo/poses/trajectory.png" --output-dir "$demo/pictures"

say "Done. In $demo:"
cat <<END
  demo.mp4              the clip, and truth.json with its exact cameras
  poses/                dataset with estimated cameras for nerfacto, splatfacto and others, trajectory plot, report
  runs/demo/flowcam/    the trained run: config, checkpoint, transforms.json
  scores.json           scores of frames that were not trained on
  renders/test/         these frames, renderings and depths
  flight.mp4            the fly-through, along the camera path in path.json
  pictures/             small versions of all that, to be shown
Fly yourself: source $VENV/bin/activate && ns-viewer --load-config $config
END
