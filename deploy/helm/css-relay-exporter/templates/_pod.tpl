{{- /* The pod template of the StatefulSet and of the Deployment. */ -}}
{{- define "css-relay.pod" -}}
metadata:
  labels:
    {{- include "css-relay.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # Kubernetes derives variables from the names of Services. They can start with CSS_RELAY_, and the exporter refuses
  # unknown variables with that prefix.
  enableServiceLinks: false
  automountServiceAccountToken: false
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . | quote }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # The exporter reads the mounted secrets and writes its volume by this group.
    fsGroup: 65532
    # Without it Kubernetes would add group permissions to the store's file at each start; the file is for its owner only.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  # A graceful stop takes up to 25 s.
  terminationGracePeriodSeconds: 30
  containers:
    - name: exporter
      image: {{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      # Variables and not arguments: commands that are run with kubectl exec get the same settings.
      env:
        {{- range $name, $text := include "css-relay.flags" . | fromYaml }}
        - name: CSS_RELAY_{{ $name | replace "." "_" | replace "-" "_" | upper }}
          value: {{ $text | quote }}
        {{- end }}
        {{- with .Values.secrets.storeUrl }}
        {{- if .name }}
        - name: CSS_RELAY_STORE_URL
          valueFrom:
            secretKeyRef:
              name: {{ .name | quote }}
              key: {{ .key | quote }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: callbacks
          containerPort: {{ include "css-relay.callback-port" . }}
        - name: web
          containerPort: {{ include "css-relay.web-port" . }}
      # Up to 5 minutes: a large store may take long to open.
      startupProbe:
        {{- include "css-relay.probe" (list . "/-/healthy") | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        {{- include "css-relay.probe" (list . "/-/healthy") | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        {{- include "css-relay.probe" (list . "/-/ready") | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if not (include "css-relay.embedded" .) }}
      # Load balancers send requests until they know that the pod stops.
      lifecycle:
        preStop:
          exec:
            command: [python, -I, -c, "import time; time.sleep(3)"]
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        {{- if include "css-relay.embedded" . }}
        - name: data
          mountPath: /data
        {{- end }}
        # SQLite sorts large results in temporary files.
        - name: tmp
          mountPath: /tmp
        {{- range include "css-relay.mounts" . | fromYamlArray }}
        - name: {{ .name }}
          mountPath: /etc/css-relay/{{ .name }}
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- range include "css-relay.mounts" . | fromYamlArray }}
    - name: {{ .name }}
      secret:
        secretName: {{ .secret | quote }}
        # The exporter refuses secret files that other users can read.
        defaultMode: 0440
        {{- with .items }}
        items:
          {{- toYaml . | nindent 10 }}
        {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- else }}
  {{- if gt (int .Values.replicas) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "css-relay.selector" . | nindent 10 }}
  {{- end }}
  {{- end }}
{{- end }}

{{- /* The Secrets to mount, each as a folder in /etc/css-relay. */ -}}
{{- define "css-relay.mounts" -}}
{{- with .Values.secrets.tokens }}{{ if .name }}
- {name: tokens, secret: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: tokens}]}
{{- end }}{{ end }}
{{- with .Values.secrets.signKeys }}{{ if .name }}
- {name: sign-keys, secret: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: keys}]}
{{- end }}{{ end }}
{{- with .Values.secrets.storePassword }}{{ if .name }}
- {name: store-password, secret: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: password}]}
{{- end }}{{ end }}
{{- with .Values.secrets.callbackTls.name }}
- {name: callback-tls, secret: {{ . | quote }}}
{{- end }}
{{- with .Values.web.configSecret }}
- {name: web, secret: {{ . | quote }}}
{{- end }}
{{- with .Values.web.loginSecret }}
- {name: login, secret: {{ . | quote }}, items: [{key: username, path: username}, {key: password, path: password}]}
{{- end }}
{{- end }}

{{- /* A probe of a path of the web listener. The argument is a list of the root context and the path. */ -}}
{{- define "css-relay.probe" -}}
{{- $root := index . 0 }}{{ $path := index . 1 }}{{ $web := $root.Values.web -}}
{{- if $web.clientCertificates -}}
tcpSocket:
  port: web
{{- else if $web.loginSecret -}}
# An httpGet probe would need the password here in plain text.
exec:
  command:
    - python
    - -I
    - -c
    - |
      import pathlib, ssl, sys
      from base64 import b64encode
      from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener
      url, folder = sys.argv[1:]
      login = b":".join(pathlib.Path(folder, name).read_bytes() for name in ("username", "password"))
      context = ssl.create_default_context()
      context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
      headers = {"Authorization": "Basic " + b64encode(login).decode()}
      build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(Request(url, headers=headers), timeout=4)
    - {{ ternary "https" "http" $web.tls }}://localhost:{{ include "css-relay.web-port" $root }}{{ $path }}
    - /etc/css-relay/login
{{- else -}}
httpGet:
  path: {{ $path }}
  port: web
  scheme: {{ ternary "HTTPS" "HTTP" $web.tls }}
{{- end }}
{{- end }}
