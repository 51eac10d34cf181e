{{- define "css-relay.name" -}}
{{- /* 52: the pods of a StatefulSet have a label of its name and 11 more characters, and a label has at most 63. */ -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "css-relay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "css-relay.labels" -}}
{{ include "css-relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* "yes" if the store is an SQLite file on the volume of the pod. */ -}}
{{- define "css-relay.embedded" -}}
{{- if and (not .Values.secrets.storeUrl.name) (hasPrefix "sqlite:" (index .Values.settings "store.url")) }}yes{{ end -}}
{{- end }}

{{- define "css-relay.callback-port" -}}
{{ regexFind "[0-9]+$" (index .Values.settings "callback.listen-address") }}
{{- end }}

{{- define "css-relay.web-port" -}}
{{ regexFind "[0-9]+$" (index .Values.settings "web.listen-address") }}
{{- end }}

{{- /* A setting in the exporter's format: lists with commas. Helm reads whole numbers as floats and would write large ones with an exponent. */ -}}
{{- define "css-relay.text" -}}
{{- if kindIs "slice" . -}}
{{- $items := list }}{{ range . }}{{ $items = append $items (include "css-relay.text" .) }}{{ end -}}
{{ join "," $items }}
{{- else if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- /* The text of every flag: the settings, and the paths of the mounted files. */ -}}
{{- define "css-relay.flags" -}}
{{- $flags := dict }}
{{- range $name, $value := .Values.settings }}
{{- $_ := set $flags $name (include "css-relay.text" $value) }}
{{- end }}
{{- with .Values.secrets }}
{{- if .storeUrl.name }}{{ $_ := unset $flags "store.url" }}{{ end }}
{{- if .tokens.name }}{{ $_ := set $flags "callback.token-file" "/etc/css-relay/tokens/tokens" }}{{ end }}
{{- if .signKeys.name }}{{ $_ := set $flags "callback.sign-key-file" "/etc/css-relay/sign-keys/keys" }}{{ end }}
{{- if .storePassword.name }}{{ $_ := set $flags "store.password-file" "/etc/css-relay/store-password/password" }}{{ end }}
{{- if .callbackTls.name }}
{{- $_ := set $flags "callback.tls-cert-file" "/etc/css-relay/callback-tls/tls.crt" }}
{{- $_ := set $flags "callback.tls-key-file" "/etc/css-relay/callback-tls/tls.key" }}
{{- end }}
{{- end }}
{{- if .Values.web.configSecret }}{{ $_ := set $flags "web.config.file" "/etc/css-relay/web/web.yml" }}{{ end }}
{{- toYaml $flags }}
{{- end }}

{{- /* Fails for values that contradict each other, with a message that says what to change. */ -}}
{{- define "css-relay.check" -}}
{{- $embedded := include "css-relay.embedded" . }}
{{- if and $embedded (gt (int .Values.replicas) 1) }}
{{- fail "replicas: an SQLite store allows only 1; for more, set a Valkey server in settings.store.url or secrets.storeUrl" }}
{{- end }}
{{- if and $embedded .Values.secrets.storePassword.name }}
{{- fail "secrets.storePassword: an SQLite store has no password; set a Valkey server in settings.store.url" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts: expected at least one; without a host the Ingress would match the requests of all hosts" }}
{{- end }}
{{- $configured := or .Values.web.configSecret (index .Values.settings "web.config.file") }}
{{- if and (or .Values.web.tls .Values.web.loginSecret .Values.web.clientCertificates) (not $configured) }}
{{- fail "web.configSecret: expected the Secret with web.yml; web.tls, web.loginSecret and web.clientCertificates need it" }}
{{- end }}
{{- if and .Values.web.clientCertificates (not .Values.web.tls) }}
{{- fail "web.clientCertificates: set web.tls to true too; client certificates need TLS" }}
{{- end }}
{{- $mounted := dict
  "callback.token-file" .Values.secrets.tokens.name
  "callback.sign-key-file" .Values.secrets.signKeys.name
  "callback.tls-cert-file" .Values.secrets.callbackTls.name
  "callback.tls-key-file" .Values.secrets.callbackTls.name
  "web.config.file" .Values.web.configSecret
}}
{{- range $flag, $secret := $mounted }}
{{- if and $secret (hasKey $.Values.settings $flag) }}
{{- fail (printf "settings.%s: the chart already sets it from the Secret %s; remove one of the two" $flag $secret) }}
{{- end }}
{{- end }}
{{- end }}
